"""Who is let in: limits, hopeless deadlines, expired work; and when refused ones may return."""

from __future__ import annotations

import asyncio
import time

import grpc
import pytest

from ssjf.gateway.v1 import gateway_pb2
from tests.gateway_svc.conftest import Rig, Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor

URGENT = gateway_pb2.PRIORITY_CLASS_URGENT
BATCH = gateway_pb2.PRIORITY_CLASS_BATCH


async def paced(rig: Rig, engine: FakeEngine, tokens: int = 20, step_s: float = 0.02) -> None:
    """Lets the gateway time an answer: `tokens` tokens, a step each `step_s`."""
    answer = await rig.queued(f"count to {tokens}")
    await until(lambda: engine.running)
    for _ in range(tokens):
        engine.step()
        await asyncio.sleep(step_s)
    await answer.end()


async def test_the_retry_hint_is_the_time_to_work_off_what_waits(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, max_queued=3)
    await paced(rig, engine)
    rate = rig.dispatcher.rate.busy()
    assert 10 < rate < 60, "a token each 20 ms, or a bit more"
    answers = [await rig.queued(f"count to {n}") for n in (5, 100, 200, 300)]
    failure = await rig.generate("count to 5").failure()
    assert failure.reason == "QUEUE_FULL"
    assert failure.retry_after_s == pytest.approx(600 / rate, rel=0.05)
    engine.by_hand = False
    await ends(answers)


async def test_before_any_answer_was_timed_the_hint_is_a_second(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, max_queued=1)
    answers = [await rig.queued("count to 5") for _ in range(2)]
    assert (await rig.generate("count to 5").failure()).retry_after_s == 1.0
    engine.by_hand = False
    await ends(answers)


async def test_queued_tokens_are_limited_over_all_tenants(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, max_queued_tokens=100)
    answers = [await rig.queued("count to 5", max_tokens=50) for _ in range(2)]
    failure = await rig.generate("count to 5", max_tokens=60).failure()
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert failure.quota == (("gateway/queued_tokens", "at most 100 queued tokens"),)
    answers.append(await rig.queued("count to 5", max_tokens=40))
    engine.by_hand = False
    await ends(answers)
    assert rig.counts() == {"accepted": 3, "finished": 3, "refused": 1}


async def test_running_requests_are_limited_over_all_engines(start: Start) -> None:
    engines = [FakeEngine(name=name, places=4, by_hand=True) for name in "ab"]
    rig = await start(*engines, max_running=3)
    answers = [await rig.queued("count to 5") for _ in range(5)]
    await until(lambda: sum(len(engine.running) for engine in engines) == 3)
    shown = await rig.queue()
    assert (shown.running_count, shown.waiting_count) == (3, 2)
    assert {e.wait_reason for e in shown.waiting} == {gateway_pb2.WAIT_REASON_GLOBAL_LIMIT}
    for engine in engines:
        engine.by_hand = False
    await ends(answers)


async def test_a_deadline_that_cannot_be_met_is_refused_at_once(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor)
    await paced(rig, engine)
    answers = [await rig.queued(f"count to {n}") for n in (5, 300, 300)]
    sent_s = time.monotonic()
    failure = await rig.generate("count to 400", timeout=5).failure()
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "DEADLINE_TOO_SOON",
    )
    assert time.monotonic() - sent_s < 4, "long before its deadline"
    assert failure.retry_after_s is not None
    assert failure.retry_after_s > 1
    answers.append(await rig.queued("count to 400", timeout=600))
    engine.by_hand = False
    await ends(answers)
    assert rig.counts()["refused"] == 1


async def test_a_hopeless_deadline_may_be_let_in(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, refuse_hopeless=False)
    await paced(rig, engine)
    answers = [await rig.queued(f"count to {n}") for n in (5, 300)]
    late = await rig.queued("count to 400", timeout=0.5)
    failure = await late.failure()
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert (await rig.queue()).waiting_count == 1, "what has expired is dropped, never promoted"
    engine.by_hand = False
    await ends(answers)


async def test_a_short_deadline_is_no_reason_to_refuse_where_a_place_is_free(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor)
    await paced(rig, engine)
    engine.by_hand = False
    assert (await rig.generate("count to 30", timeout=5).end()).token_ids == list(range(30))


async def test_a_flood_is_refused_with_typed_errors_and_the_rest_is_served(start: Start) -> None:
    engine = FakeEngine(places=4)
    rig = await start(engine, max_queued=20)
    answers = [rig.generate("count to 3") for _ in range(400)]
    await ends(answers)
    refused = [answer.error for answer in answers if answer.error is not None]
    assert {(error.code, error.reason) for error in refused} == {
        (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    }
    assert all(error.quota and error.retry_after_s for error in refused)
    counts = rig.counts()
    assert counts["accepted"] == counts["finished"] == 400 - len(refused)
    assert counts["refused"] == len(refused)


async def test_the_lowest_class_gets_its_share_while_a_higher_one_floods(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor, batch_share=0.25)
    first = await rig.queued("count to 1", request_id="first")
    low = [await rig.queued("count to 9", request_id=f"low{n}", priority=BATCH) for n in range(3)]
    high = [
        await rig.queued("count to 9", request_id=f"high{n}", priority=URGENT) for n in range(12)
    ]
    engine.by_hand = False
    await ends([first, *low, *high])
    early = [name.rstrip("0123456789") for name in engine.started[1:11]]
    assert early[0] == "high"
    assert 2 <= early.count("low") <= 3
