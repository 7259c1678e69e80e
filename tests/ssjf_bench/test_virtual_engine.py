from __future__ import annotations

from math import inf

import pytest

from ssjf_bench.step_time import StepTime
from ssjf_bench.virtual_engine import Handover, VirtualEngine


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
    assert busy.run(inf) == [1]
    assert dict(busy.first_tokens()) == {1: pytest.approx(0.051)}
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


def test_prompts_of_one_step_share_what_reading_takes_at_all() -> None:
    busy = VirtualEngine(StepTime(10, 0, prefill_token_ms=1.0, prefill_ms=5.0), 4, 1000)
    busy.start(1, 20, 3, 10)
    busy.start(2, 10, 3, 10)
    busy.run(inf)
    assert busy.now_s == pytest.approx(0.035 + 3 * 0.010)


def test_a_job_handed_to_an_idle_engine_begins_later() -> None:
    idle = VirtualEngine(StepTime(10, 0), 4, 1000, Handover(idle_ms=3.0, busy_steps=2.0))
    idle.start(1, 1, 1, 10)
    idle.run(inf)
    assert idle.now_s == pytest.approx(0.013)


def test_a_job_handed_to_a_busy_engine_misses_steps() -> None:
    busy = VirtualEngine(StepTime(10, 1), 4, 1000, Handover(busy_steps=2.0))
    busy.start(1, 1, 100, 10)
    busy.run(0.011)
    busy.start(2, 1, 5, 10)
    assert busy.running == 2
    assert busy.run(inf) == []  # two steps without it
    assert busy.now_s == pytest.approx(3 * 0.011)
    assert busy.run(inf) == [2]
    assert busy.now_s == pytest.approx(3 * 0.011 + 5 * 0.012)
    assert dict(busy.first_tokens())[2] == pytest.approx(3 * 0.011 + 0.012)


def test_a_fraction_of_a_step_is_missed_on_average() -> None:
    busy = VirtualEngine(StepTime(10, 0), 10, 1000, Handover(busy_steps=0.5))
    busy.start(0, 1, 1000, 10)
    busy.run(0.010)
    for job in range(1, 5):
        busy.start(job, 1, 900, 10)
    for _ in range(3):
        busy.run(inf)
    times = [at for job, at in busy.first_tokens() if job]
    assert times == pytest.approx([0.020, 0.020, 0.030, 0.030])


@pytest.mark.parametrize("values", [(-1, 0), (0, -1), (inf, 0)])
def test_an_impossible_handover_is_refused(values: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="handover"):
        Handover(*values)


def looking_back(context_token_ms: float = 0.1) -> VirtualEngine:
    return VirtualEngine(StepTime(10, 0, context_token_ms=context_token_ms), 4, 1000)


def test_every_token_looked_back_on_lengthens_a_step() -> None:
    alone = looking_back()
    alone.start(1, 20, 3, 10)
    assert alone.run(inf) == [1]
    assert alone.now_s == pytest.approx(0.012 + 0.0121 + 0.0122)


def test_a_job_that_has_left_is_not_looked_back_on() -> None:
    batch = looking_back()
    batch.start(1, 20, 1, 10)
    batch.start(2, 30, 2, 10)
    assert batch.run(inf) == [1]
    assert batch.now_s == pytest.approx(0.015)
    assert batch.run(inf) == [2]
    assert batch.now_s == pytest.approx(0.015 + 0.0131)


@pytest.mark.parametrize("until_s", [0.005, 0.1, 0.4005, 3.0])
def test_an_arrival_is_met_by_the_first_step_that_ends_after_it(until_s: float) -> None:
    busy = looking_back()
    busy.start(1, 20, 1000, 10)
    busy.run(until_s)
    step_s = [(10 + 0.1 * (20 + step)) * 1e-3 for step in range(1000)]
    ends_s = [sum(step_s[: count + 1]) for count in range(1000)]
    assert busy.now_s == pytest.approx(min(end_s for end_s in ends_s if end_s >= until_s))


def test_stopped_jobs_leave_with_what_they_still_have_to_make() -> None:
    busy = engine()
    busy.start(1, 1, 5, 10)
    busy.start(2, 1, 2, 10)
    assert busy.run(inf) == [2]
    assert busy.stop() == {1: 3}
    assert busy.running == 0
