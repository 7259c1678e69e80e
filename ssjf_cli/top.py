"""`ssjf top`: the gateway's queue, live in the terminal.

Owns the connection and what is printed when; `top_screen` draws. Knows the gateway's
public contract only.
"""

from __future__ import annotations

from typing import Any, Final

import grpc
from rich.console import Console
from rich.live import Live

from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import auth, channel, errors
from ssjf_cli.client import describe
from ssjf_cli.top_screen import Screen

INTERRUPTED: Final = 130
ONCE_ROWS: Final = 10


def once(address: str, token: str | None, console: Console, stderr: Console) -> int:
    """Prints one snapshot of the gateway at `address`; the exit code, 1 on an error."""
    with channel.connect_blocking(address) as connection:
        try:
            screen = Screen(address, _info(connection, token), ONCE_ROWS)
            stub: Any = gateway_pb2_grpc.GatewayServiceStub(connection)
            request = gateway_pb2.GetQueueRequest(max_entries=ONCE_ROWS)
            queue = stub.GetQueue(request, metadata=auth.bearer(token))
        except grpc.RpcError as error:
            return _failed(error, stderr)
    console.print(screen.draw(queue))
    return 0


def watch(
    address: str, token: str | None, interval_s: float, console: Console, stderr: Console
) -> int:
    """Shows the queue until Ctrl-C; the exit code: 130 then, 1 on an error."""
    rows = max(1, (console.height - Screen.FIXED_LINES) // 2)
    with channel.connect_blocking(address) as connection:
        try:
            screen = Screen(address, _info(connection, token), rows)
            stub: Any = gateway_pb2_grpc.GatewayServiceStub(connection)
            request = gateway_pb2.WatchQueueRequest(
                max_entries=rows, interval_ms=round(interval_s * 1e3)
            )
            call = stub.WatchQueue(request, metadata=auth.bearer(token))
            with Live(console=console, screen=console.is_terminal, auto_refresh=False) as live:
                for response in call:
                    live.update(screen.draw(response.queue), refresh=True)
        except grpc.RpcError as error:
            return _failed(error, stderr)
        except KeyboardInterrupt:
            return INTERRUPTED
    return 0


def _info(connection: grpc.Channel, token: str | None) -> gateway_pb2.GetServerInfoResponse:
    stub: Any = gateway_pb2_grpc.GatewayServiceStub(connection)
    request = gateway_pb2.GetServerInfoRequest()
    info: gateway_pb2.GetServerInfoResponse = stub.GetServerInfo(
        request, metadata=auth.bearer(token)
    )
    return info


def _failed(error: grpc.RpcError, stderr: Console) -> int:
    line = f"ssjf: {describe(errors.decode(error))}"
    stderr.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    return 1
