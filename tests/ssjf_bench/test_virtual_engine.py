from __future__ import annotations

from math import inf

import pytest

from ssjf_bench.step_time import StepTime
from ssjf_bench.virtual_engine import VirtualEngine


def engine(places: int = 4, prefill_token_ms: float = 0.0) -> VirtualEngine:
    # 10 ms a step, and 1 ms for each sequence
    return VirtualEngine(StepTime(10, 1, prefill_token_ms), places, 1000)


def test_a_job_ends_after_as_many_steps_as_it_has_tokens() -> None:
    alone = engine()
    alone.start(7, 1, 5, 10)
    assert alone.run(inf) == [7]
    assert alone.now_s == pytest.approx(5 * 0.011)


def test_jobs_of_one_length_end_together() -> None:
    batch = engine()
    batch.start(1, 1, 3, 10)
    batch.start(2, 1, 3, 10)
    assert sorted(batch.run(inf)) == [1, 2]
    assert batch.now_s == pytest.approx(3 * 0.012)


def test_a_step_is_shorter_once_a_job_has_left() -> None:
    batch = engine()
    batch.start(1, 1, 2, 10)
    batch.start(2, 1, 5, 10)
    assert batch.run(inf) == [1]
    assert batch.run(inf) == [2]
    assert batch.now_s == pytest.approx(2 * 0.012 + 3 * 0.011)


def test_it_stops_at_the_first_step_that_ends_after_an_arrival() -> None:
    busy = engine()
    busy.start(1, 1, 100, 10)
    assert busy.run(0.030) == []
    assert busy.now_s == pytest.approx(0.033)


def test_an_arrival_at_the_end_of_a_step_waits_no_step_more() -> None:
    busy = engine()
    busy.start(1, 1, 100, 10)
    busy.run(3 * 0.011)
    assert busy.now_s == pytest.approx(3 * 0.011)


def test_prefill_lengthens_the_first_step_alone() -> None:
    busy = engine(prefill_token_ms=1.0)
    busy.start(1, 40, 3, 10)
    assert busy.next_token_s() == pytest.approx(0.051)
    assert busy.run(inf) == [1]
    assert busy.now_s == pytest.approx(0.040 + 3 * 0.011)


def test_an_arrival_within_the_prefill_waits_for_its_step() -> None:
    busy = engine(prefill_token_ms=1.0)
    busy.start(1, 40, 3, 10)
    busy.run(0.020)
    assert busy.now_s == pytest.approx(0.051)


def test_places_and_memory_are_taken_and_given_back() -> None:
    busy = engine()
    busy.start(1, 1, 3, 10)
    assert (busy.places_free, busy.kv_free, busy.running) == (3, 990, 1)
    busy.run(inf)
    busy.release(10)
    assert (busy.places_free, busy.kv_free, busy.running) == (4, 1000, 0)


def test_idle_time_does_not_go_back() -> None:
    idle = engine()
    idle.idle_until(2.0)
    idle.idle_until(1.0)
    assert idle.now_s == 2.0


def test_stopped_jobs_leave_with_what_they_still_have_to_make() -> None:
    busy = engine()
    busy.start(1, 1, 5, 10)
    busy.start(2, 1, 2, 10)
    assert busy.run(inf) == [2]
    assert busy.stop() == {1: 3}
    assert busy.running == 0
