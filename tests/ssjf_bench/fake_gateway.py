"""A gateway in this process: real gRPC, answers by rote.

A request's first event comes at once. A prompt that begins with "fail" ends with
QUEUE_FULL after `queued`; any other is answered with its own words, one a delta.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from ssjf.engine.v1 import sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import errors, server
from ssjf.wire.settings import ServiceSettings


class FakeGateway:
    """Keeps the requests that it got, in order."""

    def __init__(self) -> None:
        self.requests: list[gateway_pb2.GenerateRequest] = []

    async def Generate(  # noqa: N802
        self, request: gateway_pb2.GenerateRequest, context: Any
    ) -> None:
        self.requests.append(request)
        queued = gateway_pb2.Queued(request_id=request.request_id, predicted_tokens=4)
        await context.write(gateway_pb2.GenerateResponse(queued=queued))
        if request.prompt.startswith("fail"):
            raise errors.QueueFull("queue", "3 requests wait", retry_after_s=1.5)
        await context.write(gateway_pb2.GenerateResponse(started=gateway_pb2.Started()))
        words = request.prompt.split()
        for index, word in enumerate(words):
            delta = gateway_pb2.Delta(text=f"{word} ", token_ids=[index], first_index=index)
            await context.write(gateway_pb2.GenerateResponse(delta=delta))
        await context.write(gateway_pb2.GenerateResponse(finished=_finished(len(words))))

    async def refuse(self, _request: Any, _context: Any) -> None:
        raise errors.Internal("this gateway only generates")

    GetQueue = WatchQueue = GetServerInfo = refuse


def _finished(tokens: int) -> gateway_pb2.Finished:
    return gateway_pb2.Finished(
        reason=sampling_pb2.FINISH_REASON_EOS,
        usage=gateway_pb2.Usage(prompt_tokens=30, output_tokens=tokens),
        length_prediction=gateway_pb2.LengthPrediction(
            predicted_tokens=4, actual_tokens=tokens, source=gateway_pb2.PREDICTION_SOURCE_MODEL
        ),
        timings=gateway_pb2.Timings(queue_wait_ms=12, ttft_ms=34, total_ms=1500),
    )


@asynccontextmanager
async def fake_gateway() -> AsyncIterator[tuple[FakeGateway, str]]:
    """The gateway and its address."""
    fake = FakeGateway()
    servicer: Any = fake
    name = "ssjf.gateway.v1.GatewayService"
    listening = await server.listen(
        ServiceSettings(host="127.0.0.1", port=0),
        {name: lambda s: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(servicer, s)},
    )
    try:
        yield fake, listening.address
    finally:
        await listening.server.stop(grace=0)
