"""Batching modes at the gateway: none, dynamic, continuous."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from ssjf.engine.v1 import engine_pb2
from ssjf.gateway.v1 import gateway_pb2
from tests.gateway_svc.conftest import Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor


@pytest.mark.parametrize(
    ("batching", "mode"),
    [
        ("none", engine_pb2.BATCHING_MODE_NONE),
        ("dynamic", engine_pb2.BATCHING_MODE_DYNAMIC),
        ("continuous", engine_pb2.BATCHING_MODE_CONTINUOUS),
    ],
)
async def test_the_engine_and_the_client_are_told_the_mode(
    start: Start, batching: str, mode: Any
) -> None:
    engine = FakeEngine()
    rig = await start(engine, batching=batching, max_batch=3, max_batch_wait_ms=1)
    assert engine.hellos[0].batching_mode == mode
    info = await rig.info()
    assert (info.batching_mode, info.scheduling.batching_mode) == (mode, mode)
    assert info.scheduling.max_batch == (1 if batching == "none" else 3)
    assert (await rig.generate("count to 2").end()).token_ids == [0, 1]


async def test_an_engine_that_cannot_run_the_mode_is_refused(
    start: Start, capfd: pytest.CaptureFixture[str]
) -> None:
    engine = FakeEngine(modes=(engine_pb2.BATCHING_MODE_CONTINUOUS,))
    rig = await start(engine, batching="dynamic", joined=0)
    await until(lambda: len(engine.hellos) >= 2)
    assert (await rig.generate("count to 2").failure()).reason == "NO_ENGINE"
    logged = capfd.readouterr()
    assert "does not run BATCHING_MODE_DYNAMIC" in logged.out + logged.err


async def test_without_batching_one_request_runs_at_a_time(start: Start) -> None:
    engine = FakeEngine(places=4, by_hand=True)
    rig = await start(engine, batching="none")
    answers = [await rig.queued("count to 2") for _ in range(3)]
    await until(lambda: engine.running)
    await rig.info()  # a round trip: had more been sent, it would have arrived
    assert len(engine.started) == 1
    assert (await rig.queue()).waiting_count == 2
    engine.by_hand = False
    await ends(answers)


async def test_continuous_batching_fills_no_more_places_than_the_batch_may_have(
    start: Start,
) -> None:
    engine = FakeEngine(places=4, by_hand=True)
    rig = await start(engine, max_batch=2)
    answers = [await rig.queued(f"count to {n}") for n in (1, 3, 3)]
    await until(lambda: len(engine.running) == 2)
    engine.step()
    await until(lambda: len(engine.started) == 3)  # the freed place, while the other still runs
    engine.by_hand = False
    await ends(answers)


async def test_a_dynamic_batch_waits_for_company_and_starts_together(start: Start) -> None:
    engine = FakeEngine(places=2, by_hand=True)
    rig = await start(engine, batching="dynamic", max_batch=2, max_batch_wait_ms=60_000)
    first = await rig.queued("count to 2")
    shown = await rig.queue()
    assert shown.waiting[0].wait_reason == gateway_pb2.WAIT_REASON_COMPANY
    assert engine.started == []
    second = await rig.queued("count to 2")
    await until(lambda: len(engine.running) == 2)
    engine.by_hand = False
    await ends([first, second])


async def test_a_dynamic_batch_without_company_starts_when_its_patience_ends(
    start: Start,
) -> None:
    engine = FakeEngine(places=2)
    rig = await start(engine, batching="dynamic", max_batch=2, max_batch_wait_ms=150)
    answer = await rig.generate("count to 2").end()
    assert answer.token_ids == [0, 1]
    assert answer.finished.timings.queue_wait_ms >= 100


async def test_a_dynamic_batch_runs_to_completion_before_the_next_starts(start: Start) -> None:
    engine, predictor = FakeEngine(places=2, by_hand=True), FakePredictor()
    rig = await start(
        engine, predictor=predictor, batching="dynamic", max_batch=2, max_batch_wait_ms=0
    )
    first = await rig.queued("count to 4", request_id="first")
    await until(lambda: engine.running)
    later = [await rig.queued(f"count to {n}", request_id=f"r{n}") for n in (9, 1, 3, 8)]
    engine.step()
    await asyncio.sleep(0.05)
    assert engine.started == ["first"], "a free place is not filled while a batch runs"
    for _ in range(3):
        engine.step()
    await until(lambda: len(engine.running) == 2)
    assert engine.started == ["first", "r1", "r3"], "the shortest predicted are put together"
    engine.step()
    assert (await later[1].end()).token_ids == [0], "a finished answer is sent at once"
    assert len(engine.running) == 1
    engine.by_hand = False
    await ends([first, *later])
    assert set(engine.started[3:]) == {"r8", "r9"}
