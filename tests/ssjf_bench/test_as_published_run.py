"""Bursts that are the same under every rule, and what is counted of them."""

from __future__ import annotations

import random

import numpy as np
import pytest

from gateway_svc.scheduling.batching import Batching, Mode
from ssjf_bench.as_published import FCFS, ORACLE, Rules
from ssjf_bench.as_published_arrivals import Gamma, Poisson
from ssjf_bench.as_published_data import Predictor
from ssjf_bench.as_published_run import Answers, capacity_per_s, draws, means, throughput_per_s

NONE = Batching(Mode.NONE, 1)


def answers(jobs: int = 300) -> Answers:
    draw = random.Random(1)
    actual = np.array([draw.randint(1, 500) for _ in range(jobs)])
    good = Predictor("good", actual.astype(np.float64), 1.0, "")
    bad = Predictor("bad", 501.0 - actual, -1.0, "")
    return Answers(actual, [good, bad])


def test_throughput_of_a_quarter_counts_up_to_the_job_that_ends_next() -> None:
    ends_s = np.arange(1.0, 51.0)
    assert throughput_per_s(ends_s, 0.5, 0.25) == pytest.approx(12 / 13)


def test_throughput_of_the_whole_run_counts_from_the_first_arrival() -> None:
    ends_s = np.array([8.0, 4.0, 12.0])
    assert throughput_per_s(ends_s, 2.0, 1) == pytest.approx(3 / 10)


def test_capacity_without_and_with_continuous_batching_follows_from_the_mean() -> None:
    tokens = np.array([45, 95])  # 1 s and 2 s
    assert capacity_per_s(tokens, NONE) == pytest.approx(1 / 1.5)
    assert capacity_per_s(tokens, Batching(Mode.CONTINUOUS, 4)) == pytest.approx(4 / 1.5)


def test_capacity_of_whole_batches_follows_from_their_longest() -> None:
    tokens = np.array([45, 95, 45, 45])
    assert capacity_per_s(tokens, Batching(Mode.DYNAMIC, 2)) == pytest.approx(4 / 3)


def test_a_perfect_predictor_does_as_the_oracle_where_nobody_is_preempted() -> None:
    bursts = draws(answers(), Poisson(), seed=1, runs=1)
    found = means(bursts, Rules(), NONE, (FCFS, ORACLE, "good", "bad"))
    assert found["good"] == found[ORACLE]
    assert found["good"].mean_jct_s < found[FCFS].mean_jct_s < found["bad"].mean_jct_s


def test_what_is_counted_does_not_change_when_jobs_end() -> None:
    bursts = draws(answers(), Gamma(), seed=1, runs=1)
    quarter = means(bursts, Rules(), NONE, (FCFS,))[FCFS]
    whole = means(bursts, Rules(throughput_share=1.0), NONE, (FCFS,))[FCFS]
    assert quarter.mean_jct_s == whole.mean_jct_s
    assert quarter.throughput_per_s != whole.throughput_per_s


def test_a_load_makes_arrivals_so_fast_under_any_value() -> None:
    rules = Rules(jobs=200, load=0.5, arrivals_as_published=False, fcfs_idles_s=0)
    slow, fast = (draws(answers(), Poisson(values=(each,)), 1, 1) for each in (1.0, 9.0))
    found = [means(each, rules, NONE, (FCFS,))[FCFS].mean_jct_s for each in (slow, fast)]
    assert found[0] == pytest.approx(found[1])


def test_another_seed_draws_other_bursts() -> None:
    found = [
        means(draws(answers(), Poisson(), seed, 1), Rules(), NONE, (FCFS,)) for seed in (1, 2, 1)
    ]
    assert found[0] == found[2] != found[1]
