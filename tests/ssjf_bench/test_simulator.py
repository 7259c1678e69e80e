"""The simulator against a naive one that takes every step on its own."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from ssjf_bench import lengths, sim_predictions, sim_run
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_predictions import Predictions
from ssjf_bench.simulator import Outcome, Setup, Stuck, simulate
from ssjf_bench.step_time import StepTime
from ssjf_bench.workload import Workload

STEP = StepTime(10, 1, prefill_token_ms=0.5)
PLACES = 3


def workload(jobs: int = 60, seed: int = 1, gap_s: float = 0.2) -> Workload:
    draw = random.Random(seed)
    rows = [Answered("", "", (), "", draw.randint(1, 60)) for _ in range(jobs)]
    requests = lengths.requests(rows, seed, prompt_tokens=[draw.randint(1, 50) for _ in rows])
    now_s, arrivals_s = 0.0, []
    for _ in rows:
        arrivals_s.append(now_s)
        now_s += draw.expovariate(1 / gap_s)
    return Workload(requests, tuple(arrivals_s))


def truth(traffic: Workload) -> Predictions:
    actual = [request.output_tokens or 0 for request in traffic.requests]
    return sim_predictions.noisy(actual, 0.0, seed=1)


def run(policy: str, traffic: Workload, **options: Any) -> Outcome:
    setup = sim_run.set_up(policy, max_batch=PLACES, step_time=STEP, **options)
    return simulate(traffic, truth(traffic), setup)


def step_by_step(traffic: Workload, key: Callable[[int], float]) -> list[float]:
    """When each job ends: continuous batching, smallest key first, one step at a time."""
    jobs = traffic.requests
    now_s, arrived = 0.0, 0
    waiting: list[int] = []
    left: dict[int, int] = {}
    ends_s = [0.0] * len(jobs)
    while arrived < len(jobs) or waiting or left:
        if not waiting and not left:
            now_s = max(now_s, traffic.arrivals_s[arrived])
        while arrived < len(jobs) and traffic.arrivals_s[arrived] <= now_s + 1e-12:
            waiting.append(arrived)
            arrived += 1
        waiting.sort(key=lambda job: (key(job), job))
        while waiting and len(left) < PLACES:
            job = waiting.pop(0)
            left[job] = jobs[job].output_tokens or 0
            now_s += STEP.prefill_s(jobs[job].prompt_tokens)
        now_s += STEP.decode_s(len(left))
        for job in list(left):
            left[job] -= 1
            if not left[job]:
                del left[job]
                ends_s[job] = now_s
    return ends_s


@pytest.mark.parametrize("gap_s", [0.02, 0.2, 1.0])
def test_fcfs_ends_every_job_when_single_steps_do(gap_s: float) -> None:
    traffic = workload(gap_s=gap_s)
    expected = step_by_step(traffic, lambda job: job)
    assert run("fcfs", traffic).end_s == pytest.approx(expected)


@pytest.mark.parametrize("gap_s", [0.02, 0.2, 1.0])
def test_ssjf_ends_every_job_when_single_steps_do(gap_s: float) -> None:
    traffic = workload(gap_s=gap_s)
    prefill_work = STEP.prefill_token_ms / (STEP.decode_s(PLACES) * 1e3)

    def work(job: int) -> float:
        request = traffic.requests[job]
        return (request.output_tokens or 0) + request.prompt_tokens * prefill_work

    assert run("ssjf", traffic).end_s == pytest.approx(step_by_step(traffic, work))


def test_times_of_a_job_are_in_order() -> None:
    outcome = run("default", workload())
    assert (outcome.start_s >= outcome.arrival_s).all()
    assert (outcome.first_token_s > outcome.start_s).all()
    assert (outcome.end_s >= outcome.first_token_s).all()


def test_the_first_token_comes_with_the_first_step() -> None:
    traffic = workload(jobs=1)
    outcome = run("fcfs", traffic)
    request = traffic.requests[0]
    first_s = STEP.prefill_s(request.prompt_tokens) + STEP.decode_s(1)
    assert outcome.first_token_s[0] == pytest.approx(first_s)


def test_no_batching_runs_one_job_at_a_time() -> None:
    outcome = run("ssjf", workload(gap_s=0.1), mode="none")
    order = np.argsort(outcome.start_s)
    assert (outcome.start_s[order][1:] >= outcome.end_s[order][:-1] - 1e-9).all()


def test_a_dynamic_batch_runs_to_completion() -> None:
    outcome = run("ssjf", workload(gap_s=0.1), mode="dynamic", max_wait_ms=500.0)
    batches = np.unique(outcome.start_s)
    ends = [outcome.end_s[outcome.start_s == start_s].max() for start_s in batches]
    assert len(batches) < len(outcome.start_s) / 2
    assert (batches[1:] >= np.array(ends[:-1]) - 1e-9).all()


def test_a_dynamic_batch_waits_for_company_no_longer_than_told() -> None:
    traffic = workload(jobs=2, gap_s=100.0)
    outcome = run("fcfs", traffic, mode="dynamic", max_wait_ms=500.0)
    assert outcome.start_s - outcome.arrival_s == pytest.approx([0.5, 0.5])


def test_a_job_that_the_memory_does_not_hold_waits() -> None:
    traffic = workload(gap_s=0.01)
    limit = traffic.requests[0].max_tokens + 50
    outcome = run("fcfs", traffic, kv_tokens=limit)
    order = np.argsort(outcome.start_s)
    assert (outcome.start_s[order][1:] >= outcome.end_s[order][:-1] - 1e-9).all()


def test_a_job_that_never_fits_is_an_error() -> None:
    with pytest.raises(Stuck, match="do not fit"):
        run("fcfs", workload(), kv_tokens=10)


def test_predictions_are_all_that_a_policy_sees() -> None:
    traffic = workload(gap_s=0.02)
    count = len(traffic.requests)
    inverted = Predictions(tuple(100.0 - tokens for tokens in truth(traffic).tokens), None, "")
    setup = sim_run.set_up("ssjf", max_batch=PLACES, step_time=STEP)
    alike = Predictions((5.0,) * count, None, "")
    by_inverted = simulate(traffic, inverted, setup)
    assert by_inverted.end_s.mean() > run("fcfs", traffic).end_s.mean()
    assert simulate(traffic, alike, setup).end_s.mean() > run("ssjf", traffic).end_s.mean()


def test_the_oracle_sees_the_truth_whatever_is_predicted() -> None:
    traffic = workload(gap_s=0.02)
    alike = Predictions((5.0,) * len(traffic.requests), None, "")
    setup = sim_run.set_up("oracle", max_batch=PLACES, step_time=STEP)
    assert simulate(traffic, alike, setup).end_s == pytest.approx(run("ssjf", traffic).end_s)


@pytest.mark.parametrize("policy", ["default", "bounded-ssjf", "tail-ssjf"])
def test_the_bound_holds_under_inverted_predictions(policy: str) -> None:
    traffic = workload(jobs=300, gap_s=0.02)
    inverted = Predictions(tuple(100.0 - tokens for tokens in truth(traffic).tokens), None, "")
    setup = sim_run.set_up(policy, max_batch=PLACES, step_time=STEP, alpha=1.0)
    assert simulate(traffic, inverted, setup).bound_violations == 0


def test_an_answer_without_a_length_is_refused() -> None:
    traffic = workload(jobs=2)
    open_end = replace(traffic.requests[0], output_tokens=None)
    with pytest.raises(ValueError, match="length of every answer"):
        simulate(
            Workload((open_end, traffic.requests[1]), traffic.arrivals_s), truth(traffic), Setup()
        )


def test_missing_predictions_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in number"):
        simulate(workload(), Predictions((1.0,), None, ""), Setup())
