"""Batching modes, the same rule under every policy."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.policy import PolicyOptions
from tests.gateway_svc.scheduling.jobs import ENGINE, WIDE, ids, job


def core_in(mode: Mode, name: str = "ssjf", **rule: Any) -> SchedulingCore:
    core = SchedulingCore(policy.create(name), batching=Batching(mode, **rule))
    core.join(ENGINE, WIDE)
    return core


def test_none_runs_one_job_at_a_time() -> None:
    core = core_in(Mode.NONE)
    core.submit(job(1, 9.0))
    core.submit(job(2, 5.0))
    assert ids(core.next_batch(ENGINE, 3.0)) == [2]
    core.credit(ENGINE, WIDE, batch_id=1)
    assert core.next_batch(ENGINE, 3.0) is None
    core.finished(2, 5)
    assert ids(core.next_batch(ENGINE, 3.0)) == [1]


def test_continuous_fills_each_place_again_up_to_the_batch() -> None:
    core = core_in(Mode.CONTINUOUS, max_batch=2)
    for number in (1, 2, 3):
        core.submit(job(number, float(number)))
    assert ids(core.next_batch(ENGINE, 3.0)) == [1, 2]
    core.credit(ENGINE, WIDE, batch_id=1)
    assert core.next_batch(ENGINE, 3.0) is None
    core.finished(1, 5)
    assert ids(core.next_batch(ENGINE, 3.0)) == [3]


@pytest.mark.parametrize("name", ["fcfs", "ssjf", "bounded-ssjf", "tail-ssjf", "hrrn"])
def test_a_dynamic_batch_starts_when_it_is_full(name: str) -> None:
    core = core_in(Mode.DYNAMIC, name, max_batch=2, max_wait_s=10.0)
    core.submit(job(1))
    assert core.next_batch(ENGINE, 1.0) is None
    core.submit(job(2))
    assert ids(core.next_batch(ENGINE, 2.0)) == [1, 2]


@pytest.mark.parametrize("name", ["fcfs", "ssjf", "bounded-ssjf", "tail-ssjf", "hrrn"])
def test_a_dynamic_batch_waits_for_company_no_longer_than_allowed(name: str) -> None:
    core = core_in(Mode.DYNAMIC, name, max_batch=3, max_wait_s=10.0)
    core.submit(job(1, arrival_s=1.0))
    core.submit(job(2, arrival_s=6.0))
    assert core.next_wake_s(6.0) == 11.0
    assert core.next_batch(ENGINE, 10.9) is None
    assert ids(core.next_batch(ENGINE, 11.0)) == [1, 2]
    assert core.next_wake_s(11.0) == float("inf")


def test_a_dynamic_batch_runs_to_completion() -> None:
    core = core_in(Mode.DYNAMIC, max_batch=2, max_wait_s=0.0)
    for number in (1, 2, 3):
        core.submit(job(number, float(number)))
    assert ids(core.next_batch(ENGINE, 3.0)) == [1, 2]
    core.finished(1, 5)
    core.credit(ENGINE, WIDE, batch_id=1)
    assert core.next_batch(ENGINE, 4.0) is None
    core.finished(2, 5)
    assert ids(core.next_batch(ENGINE, 4.0)) == [3]


def test_the_shortest_predicted_are_batched_together() -> None:
    core = core_in(Mode.DYNAMIC, max_batch=2, max_wait_s=0.0)
    for number, tokens in ((1, 300.0), (2, 5.0), (3, 200.0), (4, 6.0)):
        core.submit(job(number, tokens))
    assert ids(core.next_batch(ENGINE, 4.0)) == [2, 4]


@pytest.mark.parametrize(
    ("mode", "started"), [(Mode.DYNAMIC, [1, 5]), (Mode.CONTINUOUS, [1, 2]), (Mode.NONE, [1])]
)
def test_only_a_batch_that_runs_to_completion_is_filled_up_to_its_first_jobs_length(
    mode: Mode, started: list[int]
) -> None:
    due_at_once = policy.create("bounded-ssjf", PolicyOptions(alpha=1.0))
    core = SchedulingCore(due_at_once, batching=Batching(mode, max_batch=2))
    core.join(ENGINE, WIDE)
    for number, tokens in ((1, 300.0), (2, 5.0), (3, 280.0), (4, 400.0), (5, 290.0)):
        core.submit(job(number, tokens))
    assert ids(core.next_batch(ENGINE, 4.0)) == started


def test_jobs_that_do_not_fit_are_left_out_of_a_long_jobs_company() -> None:
    due_at_once = policy.create("bounded-ssjf", PolicyOptions(alpha=1.0))
    core = SchedulingCore(due_at_once, batching=Batching(Mode.DYNAMIC, max_batch=3))
    first, wide = job(1, 300.0), job(3, 290.0, prompt_tokens=9000)
    core.join(ENGINE, Room(3, 3 * first.kv_tokens))
    for each in (first, job(2, 5.0), wide, job(4, 280.0)):
        core.submit(each)
    assert ids(core.next_batch(ENGINE, 4.0)) == [1, 4, 2]


def test_a_job_that_comes_back_has_waited_all_the_time() -> None:
    core = core_in(Mode.DYNAMIC, max_batch=2, max_wait_s=10.0)
    core.submit(job(1, arrival_s=1.0))
    core.next_batch(ENGINE, 11.0)
    core.submit(job(2, arrival_s=12.0))
    core.leave(ENGINE)
    core.join(ENGINE, Room(3, 100_000))
    assert ids(core.next_batch(ENGINE, 13.0)) == [1, 2]


def test_the_next_wake_is_the_next_expiry_where_no_batch_waits_for_company() -> None:
    core = core_in(Mode.CONTINUOUS)
    core.submit(job(1, deadline_s=50.0))
    assert core.next_wake_s(2.0) == 50.0
    assert core.next_wake_s(60.0) == 60.0


@pytest.mark.parametrize("rule", [{"max_batch": 0}, {"max_wait_s": -1.0}])
def test_a_rule_that_cannot_hold_is_refused(rule: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="batching"):
        Batching(**rule)
