"""How batches become steps and capacity, over real gRPC."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

import pytest

from engine_svc import stream as stream_module
from ssjf.engine.v1 import engine_pb2

from .conftest import Serving
from .gateway_side import hello, sequence

Serve = Callable[..., Awaitable[Serving]]


async def test_all_sequences_of_a_step_come_in_one_message(serve: Serve) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(i, ignore_eos=True) for i in range(4)])
        await gateway.until_idle()
        steps = [m.step for m in gateway.log if m.WhichOneof("message") == "step"]
        # On a busy machine a message may hold several steps.
        rows = [Counter(step.indices) for step in steps]
        assert sum(rows, Counter()) == dict.fromkeys(range(8), 4)
        assert all(set(each.values()) == {4} for each in rows)
        assert steps[-1].step == 8


async def test_capacity_names_the_batch_that_it_takes_into_account(serve: Serve) -> None:
    async with (await serve()).connect() as gateway:
        await gateway.send_batch(1, [sequence(1)])
        await gateway.send_batch(2, [sequence(2)])
        while gateway.capacity.batch_id < 2:
            await gateway.until("capacity")
        await gateway.until_idle()
        assert gateway.capacity.free_sequences == 8


async def test_a_batch_in_parts_runs_whole_and_capacity_waits_for_its_last(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "PART_TOKENS", 3)
    async with (await serve()).connect() as gateway:
        endless = [sequence(i, max_tokens=500, ignore_eos=True) for i in range(6)]
        await gateway.send_batch(1, endless)
        while gateway.capacity.batch_id < 1:
            await gateway.until("capacity")
        assert gateway.capacity.running_sequences == 6
        while not all(map(gateway.tokens, range(6))):
            await gateway.until("step")
        await gateway.send(cancel=engine_pb2.Cancel(sequence_ids=range(6)))
        await gateway.until_idle()
        assert gateway.capacity == engine_pb2.Capacity(
            free_sequences=8, free_kv_tokens=gateway.welcome.limits.kv_tokens, batch_id=1
        )


async def test_a_batch_that_runs_together_is_never_in_parts(
    serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "PART_TOKENS", 3)
    gateway = (await serve()).connect()
    gateway.open()
    await gateway.send(hello=hello(batching_mode=engine_pb2.BATCHING_MODE_DYNAMIC))
    await gateway.until("capacity")
    await gateway.send_batch(1, [sequence(i, ignore_eos=True) for i in range(6)])
    await gateway.until_idle()
    await gateway.close()
    first = next(m.step for m in gateway.log if m.WhichOneof("message") == "step")
    assert set(first.sequence_ids) == set(range(6))
