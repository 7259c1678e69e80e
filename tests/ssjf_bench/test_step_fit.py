from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest

from ssjf_bench import step_fit
from ssjf_bench.live_records import LiveRow
from ssjf_bench.step_time import StepTime
from ssjf_bench.virtual_engine import Handover
from tests.ssjf_bench.live_runs import HANDOVER, STEP, header, row, simulated


def rows_of(**options: Any) -> Sequence[LiveRow]:
    return simulated("fcfs", **options).rows


def jittered(rows: Sequence[LiveRow], most_s: float) -> list[LiveRow]:
    """Each moment seen up to so much later, as a client sees it."""
    draw = random.Random(7)

    def later(at_s: float | None) -> float:
        assert at_s is not None
        return at_s + draw.uniform(0.0, most_s)

    return [
        replace(
            each,
            started_s=later(each.started_s),
            first_token_s=later(each.first_token_s),
            end_s=later(each.end_s),
        )
        for each in rows
    ]


def assert_close(found: StepTime, expected: StepTime, share: float) -> None:
    assert found.base_ms == pytest.approx(expected.base_ms, rel=share)
    assert found.per_sequence_ms == pytest.approx(expected.per_sequence_ms, rel=10 * share)
    assert found.prefill_token_ms == pytest.approx(expected.prefill_token_ms, rel=10 * share)
    assert found.prefill_ms == pytest.approx(expected.prefill_ms, rel=10 * share)


@pytest.mark.parametrize(("batch", "load"), [(8, 0.9), (16, 0.5), (64, 0.9)])
def test_the_engine_is_found_in_the_times_of_its_answers(batch: int, load: float) -> None:
    found = step_fit.fit([rows_of(max_batch=batch, load=load)])
    assert_close(found.step_time, STEP, 0.002)
    assert found.relative_error < 0.001


def test_what_context_costs_is_told_from_what_sequences_cost() -> None:
    engine = StepTime(6.0, 0.035, 0.03, 4.0, 1e-4)
    found = step_fit.fit([rows_of(step_time=engine, max_batch=16, jobs=800)]).step_time
    assert found.context_token_ms == pytest.approx(1e-4, rel=0.05)
    assert found.per_sequence_ms == pytest.approx(0.035, rel=0.1)
    assert found.base_ms == pytest.approx(6.0, rel=0.005)


def test_what_a_doubling_costs_is_told_from_what_a_sequence_costs() -> None:
    engine = StepTime(0.65, 0.01, 0.002, 0.2, per_doubling_ms=0.08)
    found = step_fit.fit([rows_of(step_time=engine, max_batch=16, load=0.7, jobs=800)]).step_time
    assert found.per_doubling_ms == pytest.approx(0.08, rel=0.1)
    assert found.per_sequence_ms == pytest.approx(0.01, rel=0.2)
    for running in (1, 4, 16):
        assert found.decode_s(running) == pytest.approx(engine.decode_s(running), rel=0.01)


def test_the_error_of_a_fit_counts_answers_by_their_time() -> None:
    rows = rows_of()
    shortest = min((each for each in rows if each.output_tokens > 1), key=lambda e: e.output_tokens)
    assert shortest.first_token_s is not None
    # its tokens reached the client together
    at_once = replace(shortest, end_s=shortest.first_token_s + 1e-6)
    found = step_fit.fit([[at_once if each is shortest else each for each in rows]])
    assert found.relative_error < 0.05


def test_several_runs_are_fitted_as_one_engine() -> None:
    found = step_fit.fit([rows_of(), rows_of(max_batch=32, repeat=2)])
    assert_close(found.step_time, STEP, 0.002)
    assert found.answers == sum(
        each.output_tokens > 1 for rows in (rows_of(), rows_of(repeat=2)) for each in rows
    )


def test_what_a_client_sees_late_hardly_matters() -> None:
    found = step_fit.fit([jittered(rows_of(max_batch=16, load=0.7), 0.002)])
    at_16 = STEP.decode_s(16)
    assert found.step_time.decode_s(16) == pytest.approx(at_16, rel=0.01)


@pytest.mark.parametrize("missed", [0.0, 1.0, 2.0, 2.4])
def test_steps_that_a_refilled_place_misses_are_found(missed: float) -> None:
    found = step_fit.fit([rows_of(handover=Handover(3.0, missed))])
    assert found.refills > 100
    assert found.handover.busy_steps == pytest.approx(missed, abs=0.02)


def test_the_way_to_an_idle_engine_is_found() -> None:
    found = step_fit.fit([rows_of(load=0.3)])
    assert found.idle_starts > 10
    assert found.handover.idle_ms == pytest.approx(HANDOVER.idle_ms, abs=0.1)


@pytest.mark.parametrize("mode", ["none", "dynamic"])
def test_where_nobody_decodes_meanwhile_reading_is_found_in_the_starts(mode: str) -> None:
    found = step_fit.fit([rows_of(mode=mode, max_batch=8)])
    assert found.step_time.prefill_token_ms == pytest.approx(STEP.prefill_token_ms, rel=0.01)
    # What reading takes at all cannot be told from the way to the engine.
    assert found.handover.idle_ms == pytest.approx(HANDOVER.idle_ms + STEP.prefill_ms, rel=0.01)


def test_admission_is_the_mean_until_a_client_learns_that_it_is_queued() -> None:
    of = header()
    rows = [
        row(of, str(index), arrival_s=float(index), queued_s=index + delay_s, end_s=index + 2.0)
        for index, delay_s in enumerate([0.002, 0.004] * 15)
    ]
    assert step_fit.fit([rows]).admission_ms == pytest.approx(3.0)


def test_a_run_on_a_slower_engine_drifts() -> None:
    slower = StepTime(*(1.2 * each for each in (6.5, 0.1, 0.03, 4.0)))
    rows = rows_of(step_time=slower)
    assert step_fit.drift(rows, STEP) == pytest.approx(0.2, abs=0.005)


def test_failed_requests_tell_nothing() -> None:
    rows = [*rows_of(), row(header(), "bad", outcome="UNAVAILABLE", first_token_s=None)]
    assert step_fit.fit([rows]) == step_fit.fit([rows_of()])


def test_too_few_answers_are_refused() -> None:
    with pytest.raises(ValueError, match="fewer than 20 answers"):
        step_fit.fit([rows_of()[:10]])
