"""Engines that send what they must not: no client is harmed, no link is lost for good."""

from __future__ import annotations

import grpc
import pytest

from gateway_svc import metrics
from ssjf.engine.v1 import engine_pb2
from tests.gateway_svc.conftest import Start, running, until
from tests.gateway_svc.fakes import FakeEngine


def dropped() -> float:
    """Engine messages dropped so far in this process."""
    (family,) = metrics.DROPPED_MESSAGES.collect()
    return next(sample.value for sample in family.samples if sample.name.endswith("_total"))


@pytest.mark.parametrize(
    ("code", "status", "reason"),
    [
        ("KV_EXHAUSTED", grpc.StatusCode.RESOURCE_EXHAUSTED, "KV_EXHAUSTED"),
        ("NUMERIC", grpc.StatusCode.INTERNAL, "NUMERIC"),
        ("INVALID", grpc.StatusCode.INTERNAL, "INTERNAL"),
        ("INTERNAL", grpc.StatusCode.INTERNAL, "INTERNAL"),
        ("UNSPECIFIED", grpc.StatusCode.INTERNAL, "INTERNAL"),
    ],
)
async def test_a_sequence_that_fails_gives_its_client_the_right_status(
    start: Start, code: str, status: grpc.StatusCode, reason: str
) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, number = await running(rig, engine)
    engine.fail(number, engine_pb2.SequenceErrorCode.Value(f"SEQUENCE_ERROR_CODE_{code}"))
    failure = await answer.failure()
    assert (failure.code, failure.reason) == (status, reason)
    assert "secret" not in f"{failure.message} {failure.metadata}"
    engine.by_hand = False
    await rig.generate("count to 1").end()
    assert engine.cancelled == []
    assert rig.counts() == {"accepted": 2, "finished": 1, "failed": 1}


async def test_a_gap_in_the_tokens_ends_the_answer(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, number = await running(rig, engine)
    engine.say_tokens(number, 0, [5, 6])
    engine.say_tokens(number, 3, [8])
    engine.say_tokens(number, 4, [9])
    failure = await answer.failure()
    assert (failure.reason, failure.metadata["tokens_sent"]) == ("ENGINE_LOST", "2")
    assert answer.token_ids == [5, 6]
    await until(lambda: engine.cancelled == [number])
    await rig.idle()
    assert rig.counts() == {"accepted": 1, "failed": 1}


async def test_an_answer_whose_last_tokens_never_came_is_not_called_complete(
    start: Start,
) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, number = await running(rig, engine)
    engine.say_tokens(number, 0, [5, 6])
    engine.finish(number, output_tokens=3)
    engine.report()
    failure = await answer.failure()
    assert (failure.reason, failure.metadata["tokens_sent"]) == ("ENGINE_LOST", "2")
    await rig.idle()
    assert rig.counts() == {"accepted": 1, "failed": 1}


async def test_tokens_that_come_twice_are_dropped_and_counted(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, number = await running(rig, engine)
    before = dropped()
    engine.say_tokens(number, 0, [5, 6])
    engine.say_tokens(number, 0, [5, 6])
    engine.say_tokens(number, 1, [6])
    engine.say_tokens(number, 2, [7])
    engine.finish(number, output_tokens=3)
    engine.report()
    assert (await answer.end()).token_ids == [5, 6, 7]
    assert answer.text == "5 6 7 "
    assert dropped() == before + 3


async def test_what_is_said_of_unknown_sequences_is_dropped_and_counted(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, number = await running(rig, engine, "count to 1")
    before = dropped()
    engine.say_tokens(99, 0, [1])
    finished = engine_pb2.SequenceFinished(sequence_id=99, output_tokens=1)
    failed = engine_pb2.SequenceError(sequence_id=99)
    engine.say(step=engine_pb2.StepOutput(finished=[finished], errors=[failed]))
    engine.step()
    engine.say_tokens(number, 1, [1])
    assert (await answer.end()).token_ids == [0]
    await until(lambda: dropped() == before + 4)
    assert rig.counts() == {"accepted": 1, "finished": 1}


async def test_one_engine_cannot_speak_of_anothers_sequences(start: Start) -> None:
    engines = [FakeEngine(name=name, by_hand=True) for name in "ab"]
    rig = await start(*engines)
    answer = await rig.queued("count to 1")
    await until(lambda: engines[0].running or engines[1].running)
    owner, other = engines if engines[0].running else reversed(engines)
    before = dropped()
    other.say_tokens(owner.only, 0, [77])
    await until(lambda: dropped() == before + 1)
    owner.step()
    assert (await answer.end()).token_ids == [0]


@pytest.mark.parametrize("message", [{"welcome": engine_pb2.Welcome()}, {}])
async def test_a_message_out_of_place_ends_the_link_and_it_is_opened_anew(
    start: Start, message: dict[str, engine_pb2.Welcome]
) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, _ = await running(rig, engine)
    engine.say(**message)
    await until(lambda: len(engine.hellos) == 2)
    engine.by_hand = False
    assert (await answer.end()).token_ids == list(range(9))


async def test_a_bug_in_the_gateway_does_not_take_a_link_down_for_good(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer, _ = await running(rig, engine)
    with monkeypatch.context() as patch:
        patch.delattr(type(rig.dispatcher), "step")
        engine.step()
        await rig.engines(0)
    engine.by_hand = False
    assert (await answer.end()).token_ids == list(range(9))
