"""Engines that go, fall silent or do not match."""

from __future__ import annotations

import asyncio

import grpc
import pytest
from grpc_health.v1 import health_pb2

from tests.gateway_svc.conftest import Start, running, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


# Engines that go -------------------------------------------------------------


async def test_health_follows_the_engines(start: Start) -> None:
    engine = FakeEngine()
    rig = await start(engine)
    await rig.health(SERVING)
    engine.die()
    await rig.engines(0)
    await rig.health(NOT_SERVING)
    engine.come_back()
    await rig.engines(1)
    await rig.health(SERVING)


async def test_without_an_engine_requests_are_refused(start: Start) -> None:
    rig = await start(FakeEngine(absent=True), joined=0)
    await rig.health(NOT_SERVING)
    failure = await rig.generate("count to 3", request_id="mine").failure()
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_ENGINE")
    assert failure.retry_after_s is not None
    assert failure.metadata["request_id"] == "mine"
    info = await rig.info()
    assert (info.model, list(info.engines), info.limits.max_context_tokens) == ("", [], 0)
    assert rig.counts() == {"refused": 1}


async def test_an_engine_lost_before_the_first_token_costs_only_time(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, predictor=FakePredictor())
    answer = await rig.queued("count to 30", request_id="first")
    await answer.has("started")
    other = await rig.queued("count to 20", request_id="other")
    await until(lambda: engine.running)
    engine.die()
    await rig.engines(0)
    shown = await rig.queue()
    assert [entry.request_id for entry in shown.waiting] == ["other", "first"]
    assert [entry.engine_id for entry in shown.waiting] == ["", ""]
    rig.dispatcher.check()
    engine.by_hand = False
    engine.come_back()
    await answer.end()
    assert answer.token_ids == list(range(30))
    assert answer.kinds.count("started") == 1
    assert (await other.end()).token_ids == list(range(20))
    assert engine.started == ["first", "other", "first"]
    assert rig.counts() == {"accepted": 2, "finished": 2}


async def test_time_at_an_engine_that_was_lost_is_no_queue_wait(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, _ = await running(rig, engine)
    await asyncio.sleep(0.2)
    engine.die()
    await rig.engines(0)
    engine.by_hand = False
    engine.come_back()
    timings = (await answer.end()).finished.timings
    assert timings.queue_wait_ms <= timings.total_ms - 190


async def test_another_engine_takes_over_what_had_sent_nothing(start: Start) -> None:
    engines = [FakeEngine(name="a", by_hand=True), FakeEngine(name="b", absent=True)]
    rig = await start(*engines, joined=1)
    answer, _ = await running(rig, engines[0])
    engines[1].come_back()
    await rig.engines(2)
    engines[0].die()
    await answer.end()
    assert answer.token_ids == list(range(9))
    assert [event.started.engine_id for event in answer.events if event.HasField("started")] == [
        "a"
    ]
    assert rig.counts() == {"accepted": 1, "finished": 1}


async def test_an_engine_lost_in_the_middle_of_an_answer_fails_it(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, _ = await running(rig, engine)
    for _ in range(3):
        engine.step()
    engine.die()
    failure = await answer.failure()
    assert (failure.code, failure.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")
    assert failure.metadata["tokens_sent"] == "3"
    assert failure.retry_after_s is not None
    assert answer.token_ids == [0, 1, 2]
    await rig.idle()
    assert rig.counts() == {"accepted": 1, "failed": 1}


async def test_a_deadline_passes_while_no_engine_is_there(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer = await rig.queued("count to 3", timeout=0.5)
    await until(lambda: engine.running)
    engine.die()
    assert (await answer.failure()).code is grpc.StatusCode.DEADLINE_EXCEEDED
    await rig.idle()
    assert rig.counts() == {"accepted": 1, "failed": 1}


async def test_an_engine_that_comes_back_counts_its_room_anew(start: Start) -> None:
    engine = FakeEngine(places=2, by_hand=True)
    rig = await start(engine)
    answers = [await rig.queued("count to 2") for _ in range(4)]
    await until(lambda: len(engine.running) == 2)
    engine.die()
    await rig.engines(0)
    engine.come_back()
    await until(lambda: len(engine.running) == 2)
    engine.by_hand = False
    for answer in answers:
        assert (await answer.end()).token_ids == [0, 1]
    epochs = [hello.epoch for hello in engine.hellos]
    assert epochs == sorted(set(epochs))
    assert rig.counts() == {"accepted": 4, "finished": 4}


async def test_nothing_is_sent_before_an_engine_says_what_it_has_free(start: Start) -> None:
    busy = FakeEngine(name="busy", places=1, by_hand=True)
    coming = FakeEngine(name="coming", absent=True, secretive=True)
    rig = await start(busy, coming, joined=1)
    first, _ = await running(rig, busy)
    coming.come_back()
    await until(lambda: len(rig.gateway.fleet.connected) == 2)
    answer = await rig.queued("count to 2")
    assert answer.events[0].queued.queue_length == 1
    await rig.info()  # a round trip: had it been sent, it would have arrived
    assert coming.started == []
    coming.secretive = False
    coming.report()
    assert (await answer.end()).token_ids == [0, 1]
    busy.by_hand = False
    await first.end()


async def test_a_silent_engine_is_declared_dead(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, _ = await running(rig, engine)
    engine.silent = True
    await rig.engines(0)
    await rig.health(NOT_SERVING)
    assert (await rig.queue()).waiting_count == 1
    engine.silent = engine.by_hand = False
    assert (await answer.end()).token_ids == list(range(9))
    assert answer.kinds.count("started") == 1


async def test_a_slow_engine_with_a_heartbeat_is_not_dead(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, _ = await running(rig, engine)
    await asyncio.sleep(3.5)  # longer than silence may last
    engine.by_hand = False
    await answer.end()
    assert len(engine.hellos) == 1
    assert len(engine.started) == 1


# Engines that do not match ---------------------------------------------------


@pytest.mark.parametrize(
    ("second", "why"),
    [
        (FakeEngine(name="b", vocabulary_hash="v2"), "vocabulary_hash"),
        (FakeEngine(name="b", model="huge"), "has name 'huge'"),
        (FakeEngine(name="b", revision=99), "revision 99"),
        (FakeEngine(name="b", says_welcome=False), "welcome"),
        (FakeEngine(name="b", says_limits=False), "limits"),
    ],
    ids=["vocabulary", "model", "revision", "no welcome", "no limits"],
)
async def test_an_engine_that_does_not_match_is_refused_and_the_log_says_why(
    start: Start, second: FakeEngine, why: str, capfd: pytest.CaptureFixture[str]
) -> None:
    second.absent = True
    rig = await start(FakeEngine(name="a"), second, joined=1)
    second.come_back()
    await until(lambda: len(second.hellos) >= 4)  # it is tried again, in case it is mended
    assert [engine.engine_id for engine in (await rig.info()).engines] == ["a"]
    assert (await rig.generate("count to 2").end()).finished.usage.output_tokens == 2
    assert second.started == []
    complaints = [line for line in capfd.readouterr().out.splitlines() if "no engine" in line]
    assert sum(why in line for line in complaints) == 1, "not at every attempt"


async def test_the_only_engine_with_another_revision_leaves_the_gateway_not_serving(
    start: Start,
) -> None:
    engine = FakeEngine(revision=99)
    rig = await start(engine, joined=0)
    await until(lambda: engine.hellos)
    await rig.health(NOT_SERVING)
    assert (await rig.generate("count to 2").failure()).reason == "NO_ENGINE"


async def test_requests_are_held_to_what_the_smallest_engine_holds(start: Start) -> None:
    large, small = FakeEngine(name="large"), FakeEngine(name="small", context_tokens=20)
    rig = await start(large, small)
    failure = await rig.generate("count to 3", max_tokens=30).failure()
    assert [violation.field for violation in failure.violations] == ["sampling.max_tokens"]


async def test_a_request_too_large_for_an_engine_that_joins_later_waits_for_another(
    start: Start,
) -> None:
    large = FakeEngine(name="large", by_hand=True)
    small = FakeEngine(name="small", context_tokens=20, absent=True)
    rig = await start(large, small, joined=1, max_passes=0)
    answer = await rig.queued("count to 3", max_tokens=30, request_id="big")
    await until(lambda: large.running)
    small.come_back()
    await rig.engines(2)
    large.die()
    await rig.engines(1)
    assert (await rig.generate("count to 2", request_id="little").end()).token_ids == [0, 1]
    assert small.started == ["little"]
    large.by_hand = False
    large.come_back()
    assert (await answer.end()).token_ids == [0, 1, 2]
