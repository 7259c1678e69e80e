from __future__ import annotations

import json
import random
from typing import Any

import pytest

from ssjf_bench import sim_run
from ssjf_bench.arrivals import Renewal
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_run import Traffic
from ssjf_bench.step_time import StepTime
from ssjf_bench.trace import Trace

DRAW = random.Random(3)
ROWS = [Answered("", "", (), "", 1 + int(DRAW.lognormvariate(4, 1))) for _ in range(500)]
TRACE = Trace(tuple(float(t) for t in range(9)), tuple(range(10, 19)), tuple(range(1, 10)))
KEYS = {
    *("jobs", "mean_jct_s", "p50_jct_s", "p99_jct_s", "max_wait_s", "mean_ttft_s"),
    *("throughput_requests_s", "throughput_tokens_s", "bound_violations"),
}


def figures(policy: str, load: float = 0.9, **options: Any) -> dict[str, object]:
    traffic = Traffic(Renewal(3.0), ROWS, 500)
    answered = traffic.answered()
    setup = sim_run.set_up(policy, max_batch=8, **options)
    offered = sim_run.offer(traffic, answered, load, 8, setup.step_time)
    return sim_run.figures(offered, sim_run.noise(answered, 1, tau=0.68), setup)


def test_load_is_the_share_of_capacity_that_arrives() -> None:
    traffic = Traffic(Renewal(), ROWS, 500)
    offered = sim_run.offer(traffic, traffic.answered(), 0.8, 16, StepTime())
    arrivals_s = offered.workload.arrivals_s
    mean = sum(row.output_tokens for row in ROWS) / len(ROWS)
    capacity = 16 / ((0.0065 + 0.000068 * 16) * mean)
    assert offered.capacity_requests_per_s == pytest.approx(capacity)
    assert 500 / arrivals_s[-1] == pytest.approx(0.8 * capacity)


def test_a_trace_alone_brings_its_own_lengths() -> None:
    traffic = Traffic(TRACE)
    requests = sim_run.offer(traffic, traffic.answered(), 0.5, 4, StepTime()).workload.requests
    assert [request.output_tokens for request in requests] == list(range(1, 10))
    assert {request.prompt_tokens for request in requests} == {1}


def test_lengths_replace_those_of_a_trace_but_not_its_prompts_where_asked_for() -> None:
    traffic = Traffic(TRACE, ROWS, jobs=5, input_tokens=True)
    requests = sim_run.offer(traffic, traffic.answered(), 0.5, 4, StepTime()).workload.requests
    assert len(requests) == 5
    assert [request.prompt_tokens for request in requests] == [10, 11, 12, 13, 14]


def test_arrivals_without_any_lengths_are_refused() -> None:
    with pytest.raises(ValueError, match="lengths are needed"):
        Traffic(Renewal())


def test_a_load_of_nothing_is_refused() -> None:
    traffic = Traffic(TRACE)
    with pytest.raises(ValueError, match="load"):
        sim_run.offer(traffic, traffic.answered(), 0.0, 4, StepTime())


def test_figures_are_plain_data_with_every_key() -> None:
    found = figures("default")
    assert found.keys() >= KEYS
    assert json.loads(json.dumps(found)) == found
    assert found["jobs"] == 500
    assert found["bound_violations"] == 0
    assert found["kendall_tau_b"] == pytest.approx(0.68, abs=0.001)


def test_ssjf_lies_between_fcfs_and_the_oracle() -> None:
    fcfs, ssjf, oracle = (figures(name, 1.5)["mean_jct_s"] for name in ("fcfs", "ssjf", "oracle"))
    assert isinstance(fcfs, float)
    assert isinstance(ssjf, float)
    assert isinstance(oracle, float)
    assert oracle < ssjf < fcfs


def test_policy_options_reach_the_policy() -> None:
    assert figures("bounded-ssjf", alpha=1.0) != figures("bounded-ssjf", alpha=3.0)
    assert figures("tail-ssjf", tail=1.0) != figures("tail-ssjf", tail=3.0)


def test_an_unknown_policy_is_named() -> None:
    with pytest.raises(ValueError, match="nonesuch"):
        figures("nonesuch")
