"""Limits on what waits and runs, for all and for each tenant; estimates for admission."""

from __future__ import annotations

from typing import Any

import pytest

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.job import Priority
from gateway_svc.scheduling.quota import CoreFull, Limits, Tenant
from tests.gateway_svc.scheduling.jobs import ENGINE, WIDE, ids, job


def core_with(*tenants: Tenant, policy_name: str = "ssjf", **limits: Any) -> SchedulingCore:
    core = SchedulingCore(
        policy.create(policy_name), Limits(**limits), tenants=tenants, step_model=StepModel(0, 10)
    )
    core.join(ENGINE, WIDE)
    return core


def refusal(core: SchedulingCore, number: int, **fields: Any) -> tuple[str, int, str | None]:
    with pytest.raises(CoreFull) as full:
        core.submit(job(number, **fields))
    return full.value.subject, full.value.limit, full.value.tenant


# Limits ----------------------------------------------------------------------


def test_a_refusal_names_the_limit_and_whose_it_is() -> None:
    core = core_with(Tenant("small", max_queued=1), max_queued=2)
    core.submit(job(1, tenant="small"))
    assert refusal(core, 2, tenant="small") == ("queued_requests", 1, "small")
    core.submit(job(3, tenant="other"))
    assert refusal(core, 4, tenant="other") == ("queued_requests", 2, None)


def test_queued_tokens_are_those_that_a_job_may_come_to() -> None:
    core = core_with(Tenant("small", max_queued_tokens=100), max_queued_tokens=500)
    core.submit(job(1, prompt_tokens=40, max_tokens=60, tenant="small"))
    shortest = {"prompt_tokens": 1, "max_tokens": 1}
    assert refusal(core, 2, tenant="small", **shortest) == ("queued_tokens", 100, "small")
    core.submit(job(3, prompt_tokens=100, max_tokens=300))
    assert refusal(core, 4, **shortest) == ("queued_tokens", 500, None)
    core.cancel(3)
    core.submit(job(4, **shortest))


def test_a_tenant_at_its_running_limit_leaves_the_places_to_others() -> None:
    core = core_with(Tenant("small", max_running=1))
    for number in (1, 2):
        core.submit(job(number, 1.0, tenant="small"))
    core.submit(job(3, 500.0, tenant="other"))
    assert sorted(ids(core.next_batch(ENGINE, 4.0))) == [1, 3]
    core.finished(1, 1)
    assert ids(core.next_batch(ENGINE, 4.0)) == [2]


def test_no_more_run_than_the_gateway_allows() -> None:
    core = core_with(max_running=2)
    for number in (1, 2, 3):
        core.submit(job(number, float(number)))
    assert ids(core.next_batch(ENGINE, 4.0)) == [1, 2]
    assert core.next_batch(ENGINE, 4.0) is None
    core.cancel(1)
    assert ids(core.next_batch(ENGINE, 4.0)) == [3]


@pytest.mark.parametrize(
    "limits",
    [
        *({"max_queued": 0}, {"max_queued_tokens": 0}, {"max_running": 0}),
        *({"max_passes": -1}, {"queue_timeout_s": 0.0}, {"longest_answer_tokens": 0}),
        *({"class_shares": (0.0, 0.5, 0.5)}, {"class_shares": (0.0, -0.1, 0.0)}),
    ],
)
def test_limits_that_cannot_hold_are_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(limits))):
        Limits(**limits)


@pytest.mark.parametrize("limits", [{"weight": 0.0}, {"max_queued": 0}, {"max_running": 0}])
def test_a_tenant_that_cannot_be_served_is_refused(limits: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=f"'bad': {next(iter(limits))}"):
        Tenant("bad", **limits)


# Admission -------------------------------------------------------------------


def test_the_predicted_wait_is_the_work_ahead_at_the_measured_rate() -> None:
    core = core_with(policy_name="fcfs")
    for number, tokens in ((1, 100.0), (2, 300.0)):
        core.submit(job(number, tokens))
    assert core.predicted_wait_s(job(3, 1.0), tokens_per_s=50.0) == 8.0


def test_a_short_job_waits_for_shorter_ones_only_where_length_decides() -> None:
    core = core_with()
    core.submit(job(1, 5.0))
    core.submit(job(2, 900.0))
    assert core.predicted_wait_s(job(3, 60.0), tokens_per_s=1.0) == 5.0
    assert core.predicted_wait_s(job(3, 1000.0), tokens_per_s=1.0) == 5.0 + 900.0 / 2


def test_higher_classes_are_ahead_and_lower_ones_are_not() -> None:
    core = core_with()
    core.submit(job(1, 100.0, priority=Priority.URGENT))
    core.submit(job(2, 100.0, priority=Priority.BATCH))
    assert core.predicted_wait_s(job(3, 1.0), tokens_per_s=1.0) == 100.0


def test_another_tenants_flood_is_ahead_as_far_as_shares_let_it() -> None:
    core = core_with()
    for number in range(100):
        core.submit(job(number, 10.0, tenant="flood"))
    assert core.predicted_wait_s(job(200, 20.0, tenant="quiet"), tokens_per_s=1.0) == 20.0


def test_a_deadline_can_be_met_where_wait_and_service_end_before_it() -> None:
    core = core_with(policy_name="fcfs")
    core.submit(job(1, 100.0))
    # 100 tokens at 50 a second, then 200 tokens of 10 ms.
    assert core.can_meet(job(2, 200.0, deadline_s=14.0), now_s=10.0, tokens_per_s=50.0)
    assert not core.can_meet(job(2, 200.0, deadline_s=13.9), now_s=10.0, tokens_per_s=50.0)


def test_a_lane_shows_what_a_tenant_has_in_a_class() -> None:
    core = core_with(Tenant("gold", weight=2.0))
    core.submit(job(1, 100.0, tenant="gold"))
    core.submit(job(2, 40.0, tenant="gold"))
    core.submit(job(3, 70.0, tenant="gold", priority=Priority.URGENT))
    core.next_batch(ENGINE, 1.0)
    core.submit(job(4, 30.0, tenant="gold"))
    views = {view.priority: view for view in core.lanes()}
    standard = views[Priority.STANDARD]
    assert (standard.tenant, standard.waiting, standard.waiting_tokens) == ("gold", 1, 30.0)
    assert (standard.running_tokens, standard.served_tokens) == (140.0, 70.0)
    assert views[Priority.URGENT].running_tokens == 70.0
