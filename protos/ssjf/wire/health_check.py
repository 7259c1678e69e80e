"""Asks a server's health once: `python -m ssjf.wire.health_check HOST:PORT [SERVICE]`.

Exits 0 while it is SERVING and 1 otherwise. Containers use it as their health
check, `ssjf up` as its readiness test.
"""

from __future__ import annotations

import sys
from typing import Any

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ssjf.wire import channel


def is_serving(address: str, service: str = "", timeout_s: float = 2.0) -> bool:
    """Whether `service` at `address` says SERVING within `timeout_s` seconds."""
    with channel.connect_blocking(address) as connection:
        stub: Any = health_pb2_grpc.HealthStub(connection)  # its methods are not in the stubs
        try:
            answer = stub.Check(
                health_pb2.HealthCheckRequest(service=service),
                timeout=timeout_s,
                wait_for_ready=True,
            )
        except grpc.RpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


def main() -> None:
    """Reads the arguments, exits with the answer."""
    if not 2 <= len(sys.argv) <= 3:
        sys.exit("usage: python -m ssjf.wire.health_check HOST:PORT [SERVICE]")
    address, service = (*sys.argv[1:], "")[:2]
    sys.exit(0 if is_serving(address, service) else 1)


if __name__ == "__main__":
    main()
