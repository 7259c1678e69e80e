from __future__ import annotations

import asyncio

import pytest

from gateway_svc.live import GappedOutput, LiveRequest, Moments
from gateway_svc.scheduling.job import Job
from ssjf.engine.v1 import engine_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire import errors


@pytest.fixture
def live() -> LiveRequest:
    job = Job(1, "r1", 0.0, prompt_tokens=3, max_tokens=9, predicted_tokens=5.0)
    return LiveRequest(job, engine_pb2.Sequence(), Moments(0.0, queued_s=1.0), from_model=True)


def push(live: LiveRequest, index: int, token: int, now_s: float, text: str = "x") -> bool:
    return live.push(index, token, text, now_s, sampling_pb2.TokenLogprobs(logprob=-float(token)))


def test_output_that_piles_up_is_one_delta(live: LiveRequest) -> None:
    assert push(live, 0, 4, 2.0, "a")
    assert push(live, 1, 5, 2.0, "b")
    assert push(live, 2, 6, 3.0, "c")
    (event,) = live.take()
    delta = event.delta
    assert (delta.first_index, list(delta.token_ids), delta.text) == (0, [4, 5, 6], "abc")
    assert [entry.logprob for entry in delta.logprobs] == [-4.0, -5.0, -6.0]
    assert live.take() == []
    push(live, 3, 7, 4.0)
    assert live.take()[0].delta.first_index == 3


def test_the_start_comes_before_the_output(live: LiveRequest) -> None:
    live.start("key", "a", 2.5)
    push(live, 0, 4, 3.0)
    started, delta = live.take()
    assert started.started == gateway_pb2.Started(engine_id="a", queue_wait_ms=1500.0)
    assert delta.HasField("delta")


def test_log_probabilities_come_only_where_they_were_asked_for(live: LiveRequest) -> None:
    live.push(0, 4, "x", 2.0)
    assert not live.take()[0].delta.logprobs


def test_the_first_token_is_timed_once(live: LiveRequest) -> None:
    push(live, 0, 4, 3.0)
    push(live, 1, 5, 4.0)
    assert live.moments.first_token_s == 3.0


def test_output_that_came_before_is_dropped(live: LiveRequest) -> None:
    push(live, 0, 4, 2.0)
    push(live, 1, 5, 2.0)
    assert not push(live, 1, 5, 3.0)
    assert live.output_tokens == 2


def test_a_gap_is_noticed(live: LiveRequest) -> None:
    push(live, 0, 4, 2.0)
    with pytest.raises(GappedOutput):
        push(live, 2, 6, 3.0)
    assert live.output_tokens == 1


def test_the_client_is_told_of_the_first_start_only(live: LiveRequest) -> None:
    live.start("key", "a", 2.0)
    live.take()
    live.requeue(5.0)
    live.start("other", "b", 7.0)
    assert live.take() == []
    assert live.engine_name == "b"
    assert live.moments.waited_s == 1.0 + 2.0


def test_the_first_end_wins(live: LiveRequest) -> None:
    first, second = errors.EngineLost(1), errors.Internal("later")
    live.fail(first)
    live.fail(second)
    live.finish(engine_pb2.SequenceFinished())
    assert (live.error, live.finished) == (first, None)


def test_a_finished_request_cannot_fail(live: LiveRequest) -> None:
    live.finish(engine_pb2.SequenceFinished())
    live.fail(errors.Internal("later"))
    assert live.error is None
    assert live.ended


async def test_a_rest_lasts_as_long_as_was_asked_for_and_ends_with_the_request(
    live: LiveRequest,
) -> None:
    await asyncio.wait_for(live.rest(0.01), 10)
    resting = asyncio.create_task(live.rest(60.0))
    await asyncio.sleep(0)
    push(live, 0, 4, 2.0)
    await asyncio.sleep(0.01)
    assert not resting.done()
    live.finish(engine_pb2.SequenceFinished())
    await asyncio.wait_for(resting, 10)
    await asyncio.wait_for(live.rest(60.0), 10)


async def test_what_is_there_already_is_not_waited_for(live: LiveRequest) -> None:
    push(live, 0, 4, 2.0)
    await asyncio.wait_for(live.changed(), 10)
    live.take()
    waiting = asyncio.create_task(live.changed())
    await asyncio.sleep(0)
    assert not waiting.done()
    live.start("key", "a", 3.0)
    await asyncio.wait_for(waiting, 10)
