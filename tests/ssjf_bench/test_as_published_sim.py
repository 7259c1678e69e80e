"""The paper's rules, each in a run small enough to follow by hand."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from gateway_svc.scheduling.batching import Batching, Mode
from ssjf_bench import lengths
from ssjf_bench.as_published import (
    CONSTANT_TOKENS,
    FCFS,
    ORACLE,
    SSJF,
    TOKEN_S,
    Rules,
    Starvation,
    artefacts,
    without,
)
from ssjf_bench.as_published_sim import STEP_TIME, Burst, ends_s
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_predictions import Predictions
from ssjf_bench.simulator import Setup, simulate
from ssjf_bench.workload import Workload

FAIR = without(Rules(), *artefacts(50, 0.9))
NONE = Batching(Mode.NONE, 1)
DYNAMIC = Batching(Mode.DYNAMIC, 2)
CONTINUOUS = Batching(Mode.CONTINUOUS, 2)
NEVER_LAST = 1000.0
"""When a last job comes that nobody looks at: without it, the one before may be forgotten."""


def burst(arrivals_s: Sequence[float], services_s: Sequence[float]) -> Burst:
    """Jobs that take so long alone, predicted well."""
    tokens = [round(each / TOKEN_S) - CONSTANT_TOKENS for each in services_s]
    return Burst(arrivals_s, tokens, [float(each) for each in tokens])


def told(services_s: Sequence[float]) -> list[float]:
    return [each / TOKEN_S for each in services_s]


def run(
    order: str, batching: Batching, rules: Rules, jobs: Sequence[tuple[float, float]]
) -> list[float]:
    """When jobs of (arrival, service) end."""
    arrivals_s, services_s = zip(*jobs, strict=True)
    return [float(each) for each in ends_s(burst(arrivals_s, services_s), order, batching, rules)]


@pytest.mark.parametrize("batching", [NONE, DYNAMIC, CONTINUOUS], ids=lambda each: each.mode.value)
@pytest.mark.parametrize("order", [FCFS, SSJF, ORACLE])
def test_fair_rules_give_what_the_simulator_gives(order: str, batching: Batching) -> None:
    draw = random.Random(3)
    rows = [Answered("", "", (), "", draw.randint(1, 400)) for _ in range(120)]
    arrivals_s = np.cumsum([draw.expovariate(0.4) for _ in rows]).tolist()
    predicted = [draw.randint(1, 500) for _ in rows]
    whole = [Answered("", "", (), "", row.output_tokens + CONSTANT_TOKENS) for row in rows]
    workload = Workload(lengths.requests(whole, seed=1), tuple(arrivals_s))
    predictions = Predictions(tuple(each + CONSTANT_TOKENS for each in predicted), None, "")
    expected = simulate(workload, predictions, Setup(order, batching=batching, step_time=STEP_TIME))

    tokens = [row.output_tokens for row in rows]
    jobs = Burst(arrivals_s, tokens, [float(each) for each in predicted])
    found = ends_s(jobs, order, batching, replace(FAIR, prediction_s=0.0))
    assert found == pytest.approx(expected.end_s)


def test_without_batching_nobody_waits_for_company() -> None:
    assert run(FCFS, NONE, Rules(), [(0, 1), (0, 2), (9, 1)]) == pytest.approx([1, 3, 10])


def test_fcfs_idles_until_its_batch_is_full() -> None:
    assert run(FCFS, DYNAMIC, Rules(), [(0, 1), (4, 2)]) == pytest.approx([6, 6])


def test_fcfs_idles_ten_seconds_for_a_batch_that_does_not_fill() -> None:
    assert run(FCFS, DYNAMIC, Rules(), [(0, 1), (40, 2)]) == pytest.approx([11, 52])


def test_shortest_job_first_does_not_idle() -> None:
    ends = run(SSJF, DYNAMIC, Rules(), [(0, 1), (4, 2), (NEVER_LAST, 1)])
    assert ends[:2] == pytest.approx([1, 6])


def test_running_jobs_stand_still_while_fcfs_idles() -> None:
    # At 1 the first ends; the second, of which 2 s are left, waits for company until 5.
    ends = run(FCFS, CONTINUOUS, Rules(), [(0, 1), (0, 3), (5, 4)])
    assert ends == pytest.approx([1, 7, 7 + 10 + 2])


def test_answers_of_a_dynamic_batch_come_with_its_longest() -> None:
    jobs = [(0.0, 1.0), (0.0, 3.0)]
    assert run(FCFS, DYNAMIC, Rules(), jobs) == pytest.approx([3, 3])
    assert run(FCFS, DYNAMIC, Rules(answers_at_batch_end=False), jobs) == pytest.approx([1, 3])


def test_a_job_joins_a_batch_only_when_another_ends() -> None:
    jobs = [(0.0, 3.0), (1.0, 1.0), (NEVER_LAST, 1.0)]
    ends = run(SSJF, CONTINUOUS, Rules(), jobs)
    assert ends[:2] == pytest.approx([3, 4])
    ends = run(SSJF, CONTINUOUS, Rules(joins_at_completions=False), jobs)
    assert ends[:2] == pytest.approx([3, 2])


def test_a_long_job_is_preempted_when_another_ends() -> None:
    # At 1 the first ends, and two shorter ones than the second have come meanwhile.
    jobs = [(0.0, 1.0), (0.0, 9.0), (0.5, 2.0), (0.5, 2.0), (NEVER_LAST, 1.0)]
    ends = run(SSJF, CONTINUOUS, Rules(), jobs)
    assert ends[:4] == pytest.approx([1, 11, 3, 3])
    ends = run(SSJF, CONTINUOUS, Rules(ssjf_preempts=False), jobs)
    assert ends[:4] == pytest.approx([1, 9, 3, 5])


def test_the_oracle_orders_by_what_is_left_of_a_preempted_job() -> None:
    # At 3 the second has 1 s left, less than the third.
    jobs = [(0.0, 3.0), (0.0, 4.0), (1.0, 2.0), (1.0, 2.0), (NEVER_LAST, 1.0)]
    assert run(ORACLE, CONTINUOUS, Rules(), jobs)[:4] == pytest.approx([3, 4, 5, 6])
    assert run(SSJF, CONTINUOUS, Rules(), jobs)[:4] == pytest.approx([3, 6, 5, 5])


def test_a_last_job_that_comes_alone_is_forgotten_by_shortest_job_first_only() -> None:
    jobs = [(0.0, 1.0), (5.0, 1.0)]
    assert np.isnan(run(SSJF, NONE, Rules(), jobs)[1])
    assert run(SSJF, NONE, Rules(forgets_last_job=False), jobs)[1] == pytest.approx(6)
    assert run(FCFS, NONE, Rules(), jobs)[1] == pytest.approx(6)


def test_a_job_that_has_waited_for_a_hundred_seconds_goes_first() -> None:
    # Of 12 s, with shorter ones of 5.5 s always there.
    long = (0.1, 12.0)
    jobs = [(0.0, 5.0), long, *((5.0 * each, 5.5) for each in range(1, 30)), (NEVER_LAST, 1.0)]
    end_s = run(SSJF, NONE, Rules(), jobs)[1]
    assert 100 + 12 < end_s < 100 + 12 + 5.5
    patient = run(SSJF, NONE, Rules(starvation=Starvation.NONE), jobs)
    assert patient[1] == max(patient[:-2])


def test_the_starvation_rule_reads_the_truth_or_the_prediction() -> None:
    # Predicted as long, the short second job has waited for ten times its true service when
    # the first ends, and not for ten times the predicted.
    arrivals_s, services_s = [0.0, 0.0, 1.0, NEVER_LAST], [5.0, 0.4, 2.0, 1.0]
    tokens = burst(arrivals_s, services_s).output_tokens
    jobs = Burst(arrivals_s, tokens, told([0.2, 9.0, 3.0, 1.0]))
    by_truth = ends_s(jobs, SSJF, NONE, Rules())
    assert list(by_truth[:3]) == pytest.approx([5, 5.4, 7.4])
    by_prediction = ends_s(jobs, SSJF, NONE, Rules(starvation=Starvation.PREDICTION))
    assert list(by_prediction[:3]) == pytest.approx([5, 7.4, 7])


def test_a_wait_is_counted_from_the_start_of_the_batch_in_which_a_job_comes() -> None:
    # It comes 0.1 s before the first ends, and counts as having waited for all of its 5 s.
    arrivals_s, services_s = [0.0, 4.9, 4.95, NEVER_LAST], [5.0, 0.4, 2.0, 1.0]
    tokens = burst(arrivals_s, services_s).output_tokens
    jobs = Burst(arrivals_s, tokens, told([5.0, 9.0, 3.0, 1.0]))
    assert list(ends_s(jobs, SSJF, NONE, Rules())[:3]) == pytest.approx([5, 5.4, 7.4])


def test_a_prediction_takes_its_time_before_the_queue() -> None:
    jobs = [(0.0, 1.0), (NEVER_LAST, 1.0)]
    late = Rules(prediction_s=0.5)
    assert run(SSJF, NONE, late, jobs)[0] == pytest.approx(1.5)
    assert run(FCFS, NONE, late, jobs)[0] == pytest.approx(1.0)
    assert run(ORACLE, NONE, late, jobs)[0] == pytest.approx(1.0)


def test_jobs_predicted_alike_keep_the_order_in_which_they_came() -> None:
    jobs = Burst([0.0] * 4, [100, 90, 80, 70], [50.0] * 4)
    assert list(np.argsort(ends_s(jobs, SSJF, NONE, Rules()))) == [0, 1, 2, 3]
