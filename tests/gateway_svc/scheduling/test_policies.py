from __future__ import annotations

import math

import pytest

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf.gateway.v1 import gateway_pb2
from tests.gateway_svc.scheduling.jobs import ENGINE, ids, job


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


def test_default_names_a_policy_that_is_bounded() -> None:
    made = policy.create("default")
    assert type(made) is type(policy.create(policy.DEFAULT))
    assert made.alpha is not None


def test_ageing_puts_a_long_wait_before_a_short_answer() -> None:
    jobs = [job(1, 300.0, arrival_s=0.0), job(2, 20.0, arrival_s=10.0)]
    slow, fast = (PolicyOptions(ageing_s_per_token=rate) for rate in (0.01, 0.1))
    assert waiting("ssjf-ageing", jobs, slow) == [1, 2]
    assert waiting("ssjf-ageing", jobs, fast) == [2, 1]


def test_hrrn_goes_by_what_is_known_whatever_is_predicted() -> None:
    jobs = [job(1, 1.0, prompt_tokens=9000), job(2, 900.0), job(3, 1.0, max_tokens=20)]
    assert waiting("hrrn", jobs) == [3, 2, 1]


def test_hrrn_on_predictions_goes_by_wait_for_its_length() -> None:
    # Ratios at second 100: 99 / 300, 98 / 20, 97 / 100.
    options = PolicyOptions(hrrn_on_predictions=True)
    assert order("hrrn", options) == [2, 3, 1]
    early = [job(1, 300.0, arrival_s=-1500.0), job(2, 20.0, arrival_s=2.0)]
    assert waiting("hrrn", early, options) == [1, 2]


def test_hrrn_starts_the_job_that_leads_now() -> None:
    core = SchedulingCore(policy.create("hrrn", PolicyOptions(hrrn_on_predictions=True)))
    core.join(ENGINE, Room(1, 100_000))
    core.submit(job(1, 100.0, arrival_s=0.0))
    core.submit(job(2, 10.0, arrival_s=50.0))
    core.submit(job(3, 10.0, arrival_s=51.0))
    core.cancel(2)
    assert ids(core.next_batch(ENGINE, 52.0)) == [1]
    core.finished(1, 100)
    core.credit(ENGINE, Room(1, 100_000), 1)
    assert ids(core.next_batch(ENGINE, 52.0)) == [3]


def start_one(core: SchedulingCore, batch_id: int) -> int:
    core.credit(ENGINE, Room(1, 100_000), batch_id)
    (number,) = ids(core.next_batch(ENGINE, 9.0))
    core.finished(number, 10)
    return number


def overtaken(name: str, options: PolicyOptions) -> int:
    """How many short jobs start before a long one that came behind 20 of them."""
    core = SchedulingCore(policy.create(name, options), step_model=StepModel(0.0, 1.0))
    core.join(ENGINE, Room(0, 0))
    for number in range(20):
        core.submit(job(number, 10.0))
    core.submit(job(20, 900.0))
    for number in range(21, 200):
        core.submit(job(number, 10.0))
    return next(turn for turn in range(200) if start_one(core, turn) == 20) - 20


@pytest.mark.parametrize(("alpha", "most"), [(1.0, 0), (1.5, 10), (3.0, 40), (math.inf, 179)])
def test_bounded_ssjf_lets_a_job_be_overtaken_by_alpha_less_one_times_the_work_ahead(
    alpha: float, most: int
) -> None:
    assert overtaken("bounded-ssjf", PolicyOptions(alpha=alpha)) == most


@pytest.mark.parametrize(
    "wrong",
    [{"alpha": 0.9}, {"alpha": math.nan}, {"ageing_s_per_token": -1.0}, {"typical_tokens": 0.0}],
)
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PolicyOptions(**wrong)  # type: ignore[arg-type]
