"""Many requests at once, and the end of the gateway: the ledger adds up."""

from __future__ import annotations

import asyncio
import random

import grpc
from grpc_health.v1 import health_pb2

from tests.gateway_svc.conftest import Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor

REQUESTS = 200


async def test_random_cancels_and_deadlines_leave_a_ledger_that_adds_up(start: Start) -> None:
    draw = random.Random(7)
    engines = [FakeEngine(name="a", places=4), FakeEngine(name="b", places=3)]
    predictor = FakePredictor()
    rig = await start(*engines, predictor=predictor, prediction_budget_ms=20)
    answers, cancelled = [], []
    for _ in range(REQUESTS):
        patience_s = draw.choice([None, None, 0.1, 0.6])
        answers.append(rig.generate(f"count to {draw.randint(0, 60)}", timeout=patience_s))
        if draw.random() < 0.3:
            cancelled.append(draw.choice(answers))
            cancelled[-1].call.cancel()
        if draw.random() < 0.2:
            await asyncio.sleep(draw.random() * 0.02)
            rig.dispatcher.check()
    await ends(answers)
    await rig.idle()
    for answer in answers:
        if answer.error is None:
            assert answer.token_ids == list(range(answer.finished.usage.output_tokens))
        else:
            assert answer.error.code in (
                grpc.StatusCode.CANCELLED,
                grpc.StatusCode.DEADLINE_EXCEEDED,
            )
    counts = rig.counts()
    complete = [answer for answer in answers if answer.error is None]
    assert counts["finished"] >= len(complete)
    assert counts["accepted"] <= REQUESTS
    await until(lambda: not any(engine.running for engine in engines) and not predictor.open)


async def test_an_engine_that_comes_and_goes_under_load_loses_no_request(start: Start) -> None:
    engines = [FakeEngine(name="a", places=3), FakeEngine(name="b", places=3)]
    rig = await start(*engines)
    answers = [rig.generate("count to 40", request_id=f"r{n}") for n in range(60)]
    for turn in range(4):
        await asyncio.sleep(0.05)
        engines[turn % 2].die()
        await until(lambda: len(rig.gateway.fleet.connected) < 2)
        rig.dispatcher.check()
        engines[turn % 2].come_back()
        await rig.engines(2)
    await ends(answers)
    await rig.idle()
    lost = [answer.error for answer in answers if answer.error is not None]
    assert {error.reason for error in lost} <= {"ENGINE_LOST", "NO_ENGINE"}
    assert all(answer.token_ids == list(range(40)) for answer in answers if answer.error is None)
    counts = rig.counts()
    assert counts["accepted"] + counts.get("refused", 0) == 60
    assert counts["finished"] == 60 - len(lost)


async def test_a_drain_refuses_what_is_new_and_finishes_what_was_accepted(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    answers = [await rig.queued("count to 5") for _ in range(3)]
    draining = asyncio.create_task(rig.admission.drain())
    await until(lambda: rig.admission.draining)
    failure = await rig.generate("count to 5").failure()
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert failure.retry_after_s is not None
    assert not draining.done()
    engine.by_hand = False
    await ends(answers)
    await asyncio.wait_for(draining, 20)
    assert rig.counts() == {"accepted": 3, "finished": 3, "refused": 1}


async def test_a_drain_finishes_what_was_still_being_prepared(start: Start) -> None:
    engine = FakeEngine()
    rig = await start(engine)
    engine.tokenizer_works.clear()
    answer = rig.generate("count to 3")
    await until(lambda: engine.tokenizing)
    draining = asyncio.create_task(rig.admission.drain())
    await until(lambda: rig.admission.draining)
    assert not draining.done()
    engine.tokenizer_works.set()
    assert (await answer.end()).token_ids == [0, 1, 2]
    await asyncio.wait_for(draining, 20)


async def test_a_drain_that_is_given_up_fails_the_rest_with_one_outcome_each(
    start: Start,
) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    answers = [await rig.queued("count to 5") for _ in range(3)]
    draining = asyncio.create_task(rig.admission.drain())
    await until(lambda: rig.admission.draining)
    draining.cancel()
    for answer in answers:
        failure = await answer.failure()
        assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "INTERRUPTED")
    await rig.idle()
    assert rig.counts() == {"accepted": 3, "failed": 3}


async def test_an_engine_that_joins_during_a_drain_does_not_make_it_serving(
    start: Start,
) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer = await rig.queued("count to 5")
    await rig.gateway.listening.health.set_all(serving=False)
    draining = asyncio.create_task(rig.admission.drain())
    engine.die()
    await rig.engines(0)
    engine.by_hand = False
    engine.come_back()
    await answer.end()
    await rig.health(health_pb2.HealthCheckResponse.NOT_SERVING)
    await asyncio.wait_for(draining, 20)
