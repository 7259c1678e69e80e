"""What a gateway adds to a request on an idle system.

The same requests, one at a time, once over an engine's own stream and once through the
gateway in front of it. Knows both contracts and no service. Called by `ssjf bench
gateway`.
"""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel
from ssjf.wire.schema import SCHEMA_REVISION
from ssjf_bench.latency import Latency, latency

PROMPT: Final = "What is a queue, and who is served first in it when everybody is in a hurry?"
ANSWER_TOKENS: Final = 16
WARM_UP: Final = 50


@dataclass(frozen=True, slots=True)
class Times:
    """Of the same requests: from before the prompt is sent to …"""

    first_token: Latency
    """… the first token."""
    whole: Latency
    """… the end of an answer of ANSWER_TOKENS tokens."""


async def direct(address: str, requests: int) -> Times:
    """Over the engine's stream: `Tokenize`, then a batch of one."""
    async with channel.connect(address) as connection, _serving(connection) as (stub, call):
        taken = [await _direct_once(stub, call, number) for number in range(requests + WARM_UP)]
    return _times(taken[WARM_UP:])


async def through_gateway(address: str, requests: int) -> Times:
    """Through the gateway: `Generate`."""
    async with channel.connect(address) as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        taken = [await _gateway_once(stub) for _ in range(requests + WARM_UP)]
    return _times(taken[WARM_UP:])


def _times(taken: Sequence[tuple[float, float]]) -> Times:
    return Times(latency([first for first, _ in taken]), latency([whole for _, whole in taken]))


@asynccontextmanager
async def _serving(connection: Any) -> AsyncIterator[tuple[Any, Any]]:
    stub = engine_pb2_grpc.EngineServiceStub(connection)
    call: Any = stub.Serve()
    hello = engine_pb2.Hello(gateway_id="bench", schema_revision=SCHEMA_REVISION, epoch=1)
    try:
        await call.write(engine_pb2.ServeRequest(hello=hello))
        yield stub, call
    finally:
        call.cancel()


async def _direct_once(stub: Any, call: Any, number: int) -> tuple[float, float]:
    start_s = time.perf_counter()
    tokens = await stub.Tokenize(engine_pb2.TokenizeRequest(prompt=PROMPT))
    sequence = engine_pb2.Sequence(
        sequence_id=number + 1,
        prompt_token_ids=tokens.token_ids,
        sampling=sampling_pb2.SamplingParams(max_tokens=ANSWER_TOKENS),
    )
    batch = engine_pb2.ScheduledBatch(batch_id=number + 1, sequences=[sequence])
    await call.write(engine_pb2.ServeRequest(batch=batch))
    first_s = 0.0
    while True:
        message = await call.read()
        if message.HasField("step") and not first_s:
            first_s = time.perf_counter() - start_s
        if message.step.finished:
            return first_s, time.perf_counter() - start_s


async def _gateway_once(stub: Any) -> tuple[float, float]:
    request = gateway_pb2.GenerateRequest(
        prompt=PROMPT, sampling=sampling_pb2.SamplingParams(max_tokens=ANSWER_TOKENS)
    )
    start_s, first_s = time.perf_counter(), 0.0
    async for response in stub.Generate(request):
        if response.HasField("delta") and not first_s:
            first_s = time.perf_counter() - start_s
    return first_s, time.perf_counter() - start_s
