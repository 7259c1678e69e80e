"""`ssjf generate`: one request, its answer streamed to the terminal.

The answer goes to stdout and nothing else does; what it cost goes to stderr. Knows
the gateway's public contract only.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable
from typing import Any, Final

import grpc
from rich.console import Console

from ssjf.engine.v1 import sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import auth, channel, errors

INTERRUPTED: Final = 130
# A model can write anything: on a terminal, control characters other than these are shown.
_KEPT: Final = "\n\t"
_SHOWN: Final = {
    code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) not in _KEPT
}


def generate(
    address: str,
    request: gateway_pb2.GenerateRequest,
    console: Console,
    token: str | None = None,
) -> int:
    """Sends `request` to the gateway at `address` and prints the answer; the exit code.

    0 when the answer is complete, 1 on an error (one line on `console`), 130 on Ctrl-C,
    which cancels the call.
    """
    with channel.connect_blocking(address) as connection:
        stub: Any = gateway_pb2_grpc.GatewayServiceStub(connection)
        call = stub.Generate(request, metadata=auth.bearer(token))
        try:
            finished = _print_answer(call)
        except grpc.RpcError as error:
            _say(console, f"ssjf: {describe(errors.decode(error))}", "red")
            return 1
        except KeyboardInterrupt:
            _say(console, "ssjf: cancelled", "yellow")
            return INTERRUPTED
        finally:
            call.cancel()
    _say(console, summary(finished), "dim")
    return 0


def _print_answer(call: Iterable[gateway_pb2.GenerateResponse]) -> gateway_pb2.Finished:
    finished, printed = gateway_pb2.Finished(), False
    try:
        for response in call:
            if response.HasField("delta"):
                printed |= bool(response.delta.text)
                sys.stdout.write(printable(response.delta.text))
                sys.stdout.flush()
            elif response.HasField("finished"):
                finished = response.finished
    finally:
        if printed:  # what comes next, on stderr, starts on a line of its own
            sys.stdout.write("\n")
            sys.stdout.flush()
    return finished


def printable(text: str) -> str:
    """`text` with control characters shown where stdout is a terminal."""
    return text.translate(_SHOWN) if sys.stdout.isatty() else text


def summary(finished: gateway_pb2.Finished) -> str:
    """One line on a complete answer: why it ended, tokens, prediction, times."""
    prediction, times = finished.length_prediction, finished.timings
    reason = sampling_pb2.FinishReason.Name(finished.reason).removeprefix("FINISH_REASON_")
    source = gateway_pb2.PredictionSource.Name(prediction.source).removeprefix("PREDICTION_SOURCE_")
    return (
        f"{reason.lower()} · {finished.usage.prompt_tokens} tokens in, "
        f"{finished.usage.output_tokens} out · "
        f"predicted {prediction.predicted_tokens:.0f} ({source.lower()}), "
        f"actual {prediction.actual_tokens} · "
        f"queue wait {times.queue_wait_ms:.0f} ms · TTFT {times.ttft_ms:.0f} ms · "
        f"total {times.total_ms / 1000:.2f} s"
    )


def describe(details: errors.ErrorDetails) -> str:
    """One line on a failed call: status, reason, each violation, when to try again."""
    if details.violations:
        what = "; ".join(f"{v.field or 'request'}: {v.description}" for v in details.violations)
    else:
        what = details.message
    reason = f" {details.reason}" if details.reason else ""
    line = f"{details.code.name}{reason}: {what}"
    if details.retry_after_s is not None:
        line += f" (try again in {details.retry_after_s:.3g} s)"
    return " ".join(line.split())


def _say(console: Console, line: str, style: str) -> None:
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
