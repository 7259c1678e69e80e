"""Requests that end otherwise than well, for their client's or the queue's reasons."""

from __future__ import annotations

import asyncio

import grpc
import pytest

from ssjf.engine.v1 import prompt_pb2
from ssjf.wire import errors
from ssjf.wire.errors import Violation
from tests.gateway_svc.conftest import Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor

# Cancelling ------------------------------------------------------------------


async def test_cancelling_while_the_prompt_is_tokenised_leaves_nothing(start: Start) -> None:
    engine, predictor = FakeEngine(), FakePredictor()
    rig = await start(engine, predictor=predictor)
    engine.tokenizer_works.clear()
    predictor.works.clear()
    answer = rig.generate("count to 3")
    await until(lambda: engine.tokenizing and predictor.open)
    answer.call.cancel()
    await until(lambda: not engine.tokenizing and not predictor.open)
    assert (await answer.failure()).code is grpc.StatusCode.CANCELLED
    assert engine.started == []
    assert rig.counts() == {}


async def test_cancelling_a_queued_request_frees_its_place(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, max_queued=1)
    first = await rig.queued("count to 3", request_id="first")
    await first.has("started")
    gone = await rig.queued("count to 1", request_id="gone")
    gone.call.cancel()
    await until(lambda: rig.dispatcher.ledger.cancelled)
    assert rig.dispatcher.core.waiting_count == 0
    last = await rig.queued("count to 2", request_id="last")
    engine.by_hand = False
    await ends([first, last])
    assert engine.started == ["first", "last"]
    assert rig.counts() == {"accepted": 3, "finished": 2, "cancelled": 1}


async def test_cancelling_a_running_request_stops_the_engine(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    answer = await rig.queued("count to 30")
    await until(lambda: engine.running)
    number = engine.only
    engine.step()
    await answer.has("delta")
    answer.call.cancel()
    await until(lambda: not engine.running)
    assert engine.cancelled == [number]
    assert (await answer.failure()).code is grpc.StatusCode.CANCELLED
    engine.by_hand = False
    await rig.generate("count to 1").end()
    assert rig.counts() == {"accepted": 2, "finished": 1, "cancelled": 1}


async def test_a_client_that_vanishes_is_a_cancellation(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    answer = await rig.queued("count to 30")
    await until(lambda: engine.running)
    assert answer.task is not None
    answer.task.cancel()
    await asyncio.gather(answer.task, return_exceptions=True)
    del answer
    await until(lambda: engine.cancelled)
    await until(lambda: rig.dispatcher.ledger.cancelled == 1)


async def test_tokens_of_a_cancelled_request_are_dropped(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    gone = await rig.queued("count to 30")
    await until(lambda: engine.running)
    number = engine.only
    gone.call.cancel()
    await until(lambda: engine.cancelled)
    engine.say_tokens(number, 0, [1, 2])
    engine.by_hand = False
    assert (await rig.generate("count to 2").end()).token_ids == [0, 1]
    assert rig.counts() == {"accepted": 2, "finished": 1, "cancelled": 1}


# Time ------------------------------------------------------------------------


async def test_a_deadline_that_passes_while_tokenising_is_a_refusal(start: Start) -> None:
    engine = FakeEngine()
    rig = await start(engine)
    engine.tokenizer_works.clear()
    failure = await rig.generate("count to 3", timeout=0.2).failure()
    assert failure.code is grpc.StatusCode.DEADLINE_EXCEEDED
    await until(lambda: not engine.tokenizing)
    assert "accepted" not in rig.counts()


async def test_a_deadline_that_passes_in_the_queue_frees_the_place(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    first = await rig.queued("count to 3")
    late = await rig.queued("count to 3", timeout=0.3)
    assert (await late.failure()).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert late.kinds == ["queued"]
    await until(lambda: rig.dispatcher.core.waiting_count == 0)
    engine.by_hand = False
    await first.end()
    assert len(engine.started) == 1
    assert rig.counts() == {"accepted": 2, "finished": 1, "failed": 1}


async def test_a_deadline_that_passes_in_decode_stops_the_engine(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    late = await rig.queued("count to 30", timeout=0.4)
    await until(lambda: engine.running)
    engine.step()
    assert (await late.failure()).code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert late.kinds == ["queued", "started", "delta"]
    await until(lambda: engine.cancelled)
    await rig.idle()
    assert rig.counts() == {"accepted": 1, "failed": 1}


async def test_a_deadline_in_a_hundred_years_is_like_any_other(start: Start) -> None:
    rig = await start(FakeEngine())
    answer = await rig.generate("count to 2", timeout=100 * 365 * 86_400.0).end()
    assert answer.token_ids == [0, 1]


async def test_waiting_too_long_is_a_queue_timeout(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, queue_timeout_s=0.3)
    first = await rig.queued("count to 3")
    failure = await (await rig.queued("count to 3")).failure()
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.DEADLINE_EXCEEDED,
        "QUEUE_TIMEOUT",
    )
    assert failure.retry_after_s is not None
    engine.by_hand = False
    await first.end()  # it ran for longer than the queue's time-out
    assert rig.counts() == {"accepted": 2, "finished": 1, "failed": 1}


# Refusals --------------------------------------------------------------------


async def test_a_full_queue_refuses_with_the_limit_and_when_to_come_back(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine, max_queued=2)
    answers = [await rig.queued("count to 3") for _ in range(3)]
    failure = await rig.generate("count to 3").failure()
    assert (failure.code, failure.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert failure.quota == (("gateway/queued_requests", "at most 2 queued requests"),)
    assert failure.retry_after_s is not None
    assert failure.retry_after_s >= 0.1
    engine.by_hand = False
    await ends(answers)
    assert rig.counts() == {"accepted": 3, "finished": 3, "refused": 1}


async def test_requests_that_are_being_prepared_count_against_the_bound(start: Start) -> None:
    engine = FakeEngine()
    rig = await start(engine, max_queued=2)
    engine.tokenizer_works.clear()
    answers = [rig.generate("count to 3") for _ in range(5)]
    await until(lambda: rig.dispatcher.ledger.refused == 3)
    engine.tokenizer_works.set()
    await ends(answers)
    refused = [answer.error.reason for answer in answers if answer.error is not None]
    assert refused == ["QUEUE_FULL"] * 3
    assert rig.counts() == {"accepted": 2, "finished": 2, "refused": 3}


async def test_an_id_that_is_in_the_gateway_is_refused_and_the_first_is_unharmed(
    start: Start,
) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    first = await rig.queued("count to 3", request_id="same")
    failure = await rig.generate("count to 9", request_id="same").failure()
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "DUPLICATE_REQUEST_ID",
    )
    assert failure.metadata["request_id"] == "same"
    engine.by_hand = False
    assert (await first.end()).token_ids == [0, 1, 2]
    assert (await rig.generate("count to 1", request_id="same").end()).token_ids == [0]
    assert rig.counts() == {"accepted": 2, "finished": 2, "refused": 1}


async def test_another_model_is_not_found(start: Start) -> None:
    rig = await start(FakeEngine())
    failure = await rig.generate("count to 3", model="huge", request_id="mine").failure()
    assert (failure.code, failure.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")
    assert failure.metadata["request_id"] == "mine"
    assert (await rig.generate("count to 1", model="tiny").end()).token_ids == [0]
    assert rig.counts() == {"accepted": 1, "finished": 1, "refused": 1}


async def test_every_violation_reaches_the_client(start: Start) -> None:
    rig = await start(FakeEngine())
    failure = await rig.generate(temperature=9.0, top_p=0.0, request_id="a b").failure()
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )
    assert failure.violations == (
        Violation("input", "one of prompt, chat and token_ids is needed"),
        Violation("sampling.temperature", "must be in [0, 2], is 9"),
        Violation("sampling.top_p", "must be in (0, 1], is 0"),
        Violation("request_id", "must be 1 to 128 characters of [A-Za-z0-9._:-]"),
    )
    assert failure.metadata["request_id"] != "a b"
    assert rig.counts() == {"refused": 1}


async def test_a_prompt_over_the_context_is_refused_before_the_queue(start: Start) -> None:
    rig = await start(FakeEngine(context_tokens=8))
    failure = await rig.generate("one two three four five six seven 8").failure()
    assert [violation.field for violation in failure.violations] == ["prompt"]
    assert rig.counts() == {"refused": 1}


async def test_what_the_engines_tokenizer_refuses_is_an_invalid_request(start: Start) -> None:
    engine = FakeEngine()
    rig = await start(engine)
    wrong = Violation("chat", "the template does not take this")
    engine.tokenizer_error = errors.InvalidRequest([wrong])
    chat = prompt_pb2.Chat(
        messages=[prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_USER, content="5")]
    )
    assert (await rig.generate(chat=chat).failure()).violations == (wrong,)
    assert rig.counts() == {"refused": 1}


@pytest.mark.parametrize(
    ("error", "reason"),
    [(errors.Internal("a bug"), "INTERNAL"), (errors.Draining("bye"), "NO_ENGINE")],
)
async def test_a_tokenizer_that_fails_is_told_apart_from_one_that_is_not_there(
    start: Start, error: errors.SsjfError, reason: str
) -> None:
    rig = await start(FakeEngine(tokenizer_error=error))
    assert (await rig.generate("count to 3").failure()).reason == reason
    assert rig.counts() == {"refused": 1}


# Slow readers ----------------------------------------------------------------


async def test_a_client_that_stops_reading_is_cut_off_and_others_are_not(start: Start) -> None:
    engine = FakeEngine(by_hand=True, text=lambda _: "x" * 200_000)
    rig = await start(engine, stall_timeout_s=0.5)
    stalled = rig.open("count to 300")
    await until(lambda: engine.running)
    number = engine.only
    while number in engine.running:  # until the gateway has had enough of the client
        engine.step()
        await asyncio.sleep(0.02)
    assert engine.cancelled == [number]
    await until(lambda: rig.dispatcher.ledger.failed == 1)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        async for _ in stalled:
            pass
    failure = errors.decode(caught.value)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.RESOURCE_EXHAUSTED,
        "SLOW_CONSUMER",
    )
    engine.by_hand = False
    assert (await rig.generate("count to 2").end()).token_ids == [0, 1]
    assert rig.counts() == {"accepted": 2, "finished": 1, "failed": 1}
