from __future__ import annotations

import pytest

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf.gateway.v1 import gateway_pb2
from tests.gateway_svc.scheduling.jobs import job


def order(name: str, options: PolicyOptions | None = None) -> list[int]:
    """Three jobs as the policy orders them: 1 came first, 2 is predicted, 3 is truly shortest."""
    return waiting(name, [job(1, 300.0), job(2, 20.0), job(3, 100.0)], options)


def waiting(name: str, jobs: list[Job], options: PolicyOptions | None = None) -> list[int]:
    core = SchedulingCore(policy.create(name, options))
    for each in jobs:
        core.submit(each)
    return [each.job_id for each in core.waiting(now_s=100.0)]


def test_the_registry_finds_every_policy() -> None:
    assert {"fcfs", "ssjf", "oracle"} <= set(policy.names())


def test_every_policy_has_its_number_in_the_contract() -> None:
    for name in policy.names():
        assert gateway_pb2.Policy.Value(f"POLICY_{name.upper().replace('-', '_')}") > 0


def test_an_unknown_policy_is_refused_with_those_there_are() -> None:
    with pytest.raises(ValueError, match=r"'longest'.*fcfs, hrrn, oracle, ssjf"):
        policy.create("longest")


def test_fcfs_goes_by_arrival() -> None:
    assert order("fcfs") == [1, 2, 3]


def test_ssjf_goes_by_prediction() -> None:
    assert order("ssjf") == [2, 3, 1]


def test_ssjf_counts_the_prefill_of_the_prompt() -> None:
    jobs = [job(1, 10.0, prompt_tokens=5000), job(2, 11.0, prompt_tokens=10)]
    assert waiting("ssjf", jobs) == [2, 1]


def test_ssjf_does_not_count_what_is_cached_of_the_prompt() -> None:
    cached = job(1, 10.0, prompt_tokens=5000, cached_prompt_tokens=5000)
    assert waiting("ssjf", [cached, job(2, 11.0)]) == [1, 2]


def test_oracle_goes_by_truth() -> None:
    options = PolicyOptions(oracle_lengths={"r1": 50, "r2": 500, "r3": 5})
    assert order("oracle", options) == [3, 1, 2]


def test_oracle_keeps_the_prediction_where_no_length_was_given() -> None:
    assert order("oracle", PolicyOptions(oracle_lengths={"r1": 50})) == [2, 1, 3]


def test_oracle_is_refused_without_lengths() -> None:
    with pytest.raises(ValueError, match="--oracle-lengths"):
        policy.create("oracle")
