"""The engine without a model, behind the real gateway and on its own stream."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from typing import Any

import grpc
import pytest

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc, sampling_pb2
from ssjf.wire import channel, server
from ssjf.wire.schema import SCHEMA_REVISION
from ssjf_bench.paced_engine import SERVICE, PacedEngine, PacedEngineSettings


@asynccontextmanager
async def paced(**settings: Any) -> AsyncIterator[Any]:
    """A stub of a running one."""
    given = PacedEngineSettings(host="127.0.0.1", port=0, **{"step_ms": 0.0, **settings})
    engine = PacedEngine(given)
    add = partial(engine_pb2_grpc.add_EngineServiceServicer_to_server, engine)
    listening = await server.listen(given, {SERVICE: add})
    try:
        async with channel.connect(listening.address) as connection:
            yield engine_pb2_grpc.EngineServiceStub(connection)
    finally:
        await listening.server.stop(grace=0)


def request(**message: Any) -> engine_pb2.ServeRequest:
    return engine_pb2.ServeRequest(**message)


def sequence(number: int, *, max_tokens: int = 9, forced: int = 0) -> engine_pb2.Sequence:
    payload = engine_pb2.BenchmarkPayload(forced_output_tokens=forced)
    return engine_pb2.Sequence(
        sequence_id=number,
        prompt_token_ids=[1, 2, 3],
        sampling=sampling_pb2.SamplingParams(max_tokens=max_tokens),
        benchmark_payload=payload.SerializeToString() if forced else b"",
    )


async def greeted(stub: Any, epoch: int = 1) -> Any:
    call = stub.Serve()
    hello = engine_pb2.Hello(schema_revision=SCHEMA_REVISION, epoch=epoch)
    await call.write(request(hello=hello))
    welcome = (await call.read()).welcome
    assert (welcome.epoch, welcome.schema_revision) == (epoch, SCHEMA_REVISION)
    return call


async def until_finished(call: Any, count: int) -> dict[int, list[int]]:
    """The indices of every sequence's tokens, until `count` have finished."""
    indices: dict[int, list[int]] = {}
    finished = 0
    while finished < count:
        step = (await call.read()).step
        for number, index in zip(step.sequence_ids, step.indices, strict=True):
            indices.setdefault(number, []).append(index)
        finished += len(step.finished)
        for each in step.finished:
            assert each.output_tokens == len(indices[each.sequence_id])
    return indices


async def test_every_sequence_gets_its_tokens_a_step_at_a_time() -> None:
    async with paced() as stub:
        call = await greeted(stub)
        batch = engine_pb2.ScheduledBatch(
            batch_id=1, sequences=[sequence(1, max_tokens=3), sequence(2, forced=5)]
        )
        await call.write(request(batch=batch))
        assert await until_finished(call, 2) == {1: [0, 1, 2], 2: [0, 1, 2, 3, 4]}
        call.cancel()


async def test_it_says_what_is_free_as_of_the_batch_that_it_knows() -> None:
    async with paced(max_sequences=4, kv_tokens=100, step_ms=1000) as stub:
        call = await greeted(stub)
        first = (await call.read()).capacity
        assert (first.free_sequences, first.free_kv_tokens, first.batch_id) == (4, 100, 0)
        batch = engine_pb2.ScheduledBatch(batch_id=7, sequences=[sequence(1)])
        await call.write(request(batch=batch))
        taken = (await call.read()).capacity
        assert (taken.free_sequences, taken.free_kv_tokens, taken.batch_id) == (3, 88, 7)
        call.cancel()


async def test_what_is_cancelled_is_free_again() -> None:
    async with paced(max_sequences=1) as stub:
        call = await greeted(stub)
        endless = engine_pb2.ScheduledBatch(batch_id=1, sequences=[sequence(1, max_tokens=10**6)])
        await call.write(request(batch=endless))
        await call.write(request(cancel=engine_pb2.Cancel(sequence_ids=[1])))
        batch = engine_pb2.ScheduledBatch(batch_id=2, sequences=[sequence(2, max_tokens=2)])
        await call.write(request(batch=batch))
        assert (await until_finished(call, 1))[2] == [0, 1]
        call.cancel()


async def test_a_second_gateway_is_refused_while_the_first_is_there() -> None:
    async with paced() as stub:
        first = await greeted(stub)
        second = stub.Serve()
        hello = request(hello=engine_pb2.Hello(schema_revision=SCHEMA_REVISION))
        with suppress(grpc.aio.AioRpcError):  # the refusal may be there before the hello
            await second.write(hello)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await second.read()
        assert caught.value.code() is grpc.StatusCode.ALREADY_EXISTS
        first.cancel()


async def test_a_prompt_has_a_token_a_word() -> None:
    async with paced() as stub:
        answer = await stub.Tokenize(engine_pb2.TokenizeRequest(prompt="one two three"))
        assert list(answer.token_ids) == [0, 1, 2]
