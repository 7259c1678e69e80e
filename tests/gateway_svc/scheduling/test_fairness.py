"""Classes above one another, tenants side by side."""

from __future__ import annotations

from collections import Counter

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.scheduling.quota import Limits, Tenant
from tests.gateway_svc.scheduling.jobs import ENGINE, job

NO_SHARES = (0.0, 0.0, 0.0)


def core_with(*tenants: Tenant, shares: tuple[float, float, float] = NO_SHARES) -> SchedulingCore:
    limits = Limits(max_queued=10_000, class_shares=shares)
    core = SchedulingCore(
        policy.create("ssjf"), limits, tenants=tenants, step_model=StepModel(0.0, 1.0)
    )
    core.join(ENGINE, Room(1, 100_000))
    return core


def serve(core: SchedulingCore, jobs: int, actual: dict[str, int] | None = None) -> list[Job]:
    """Runs so many jobs, one after the other; answers are as predicted or as told."""
    served = []
    for _ in range(jobs):
        batch = core.next_batch(ENGINE, 0.0)
        assert batch is not None
        (started,) = batch.jobs
        tokens = (actual or {}).get(started.tenant, int(started.predicted_tokens))
        core.finished(started.job_id, tokens)
        core.credit(ENGINE, Room(1, 100_000), batch.batch_id)
        served.append(started)
    return served


def submit(core: SchedulingCore, first: int, count: int, tokens: float, **fields: object) -> None:
    for number in range(first, first + count):
        core.submit(job(number, tokens, **fields))


def tokens_by_tenant(jobs: list[Job]) -> Counter[str]:
    tokens: Counter[str] = Counter()
    for each in jobs:
        tokens[each.tenant] += int(each.predicted_tokens)
    return tokens


# Tenants ---------------------------------------------------------------------


def test_two_tenants_get_the_same_work_however_many_jobs_they_have() -> None:
    core = core_with()
    submit(core, 0, 300, 10.0, tenant="flood")
    submit(core, 1000, 30, 40.0, tenant="quiet")
    tokens = tokens_by_tenant(serve(core, 100))
    assert abs(tokens["flood"] - tokens["quiet"]) <= 40


def test_weights_share_the_work_in_proportion() -> None:
    core = core_with(Tenant("gold", weight=3.0))
    submit(core, 0, 200, 10.0, tenant="gold")
    submit(core, 1000, 200, 10.0, tenant="plain")
    tokens = tokens_by_tenant(serve(core, 200))
    assert tokens == {"gold": 1500, "plain": 500}


def test_what_counts_in_the_end_are_actual_tokens() -> None:
    core = core_with()
    submit(core, 0, 100, 10.0, tenant="liar")
    submit(core, 1000, 100, 10.0, tenant="honest")
    jobs = serve(core, 80, {"liar": 30, "honest": 10})
    assert Counter(each.tenant for each in jobs) == {"liar": 20, "honest": 60}


def test_actual_tokens_count_by_weight_too() -> None:
    core = core_with(Tenant("gold", weight=2.0))
    submit(core, 0, 100, 10.0, tenant="gold")
    submit(core, 1000, 100, 10.0, tenant="plain")
    jobs = serve(core, 60, {"gold": 40, "plain": 40})
    assert Counter(each.tenant for each in jobs) == {"gold": 40, "plain": 20}


def test_an_idle_tenant_earns_no_credit_for_the_past() -> None:
    core = core_with()
    submit(core, 0, 200, 10.0, tenant="steady")
    serve(core, 100)
    submit(core, 1000, 100, 10.0, tenant="late")
    jobs = serve(core, 20)
    assert Counter(each.tenant for each in jobs) == {"steady": 10, "late": 10}


def test_a_pause_does_not_forgive_what_a_tenant_was_served() -> None:
    core = core_with()
    submit(core, 0, 1, 500.0, tenant="greedy")
    submit(core, 100, 100, 10.0, tenant="steady")
    assert serve(core, 1)[0].tenant == "greedy"
    submit(core, 1000, 10, 10.0, tenant="greedy")
    assert {each.tenant for each in serve(core, 49)} == {"steady"}


def test_weights_and_limits_can_change_while_jobs_wait() -> None:
    core = core_with()
    submit(core, 0, 100, 10.0, tenant="gold")
    submit(core, 1000, 100, 10.0, tenant="plain")
    core.set_tenants([Tenant("gold", weight=3.0)])
    jobs = serve(core, 40)
    assert Counter(each.tenant for each in jobs) == {"gold": 30, "plain": 10}


def test_within_a_tenant_the_policy_decides() -> None:
    core = core_with()
    for number, tokens in ((1, 30.0), (2, 10.0), (3, 20.0)):
        core.submit(job(number, tokens, tenant="one"))
    assert [each.job_id for each in serve(core, 3)] == [2, 3, 1]


# Classes ---------------------------------------------------------------------


def test_without_guaranteed_shares_the_higher_class_goes_first_always() -> None:
    core = core_with()
    submit(core, 0, 5, 1.0, priority=Priority.BATCH)
    submit(core, 100, 50, 100.0, priority=Priority.URGENT)
    assert {each.priority for each in serve(core, 50)} == {Priority.URGENT}


def test_the_lowest_class_gets_the_work_it_is_guaranteed() -> None:
    core = core_with(shares=(0.0, 0.0, 0.2))
    submit(core, 0, 100, 10.0, priority=Priority.BATCH)
    submit(core, 1000, 500, 10.0, priority=Priority.URGENT)
    jobs = serve(core, 200)
    assert Counter(each.priority for each in jobs) == {Priority.URGENT: 160, Priority.BATCH: 40}


def test_a_class_that_waits_for_its_turn_does_not_go_first_when_it_comes() -> None:
    core = core_with(shares=(0.0, 0.0, 0.2))
    submit(core, 1000, 50, 10.0, priority=Priority.URGENT)
    serve(core, 20)
    submit(core, 0, 10, 10.0, priority=Priority.BATCH)
    assert [each.priority for each in serve(core, 10)].index(Priority.BATCH) == 4


def test_work_done_while_no_one_was_above_is_not_held_against_a_class() -> None:
    core = core_with(shares=(0.0, 0.0, 0.2))
    submit(core, 0, 100, 10.0, priority=Priority.BATCH)
    serve(core, 50)
    submit(core, 1000, 50, 10.0, priority=Priority.URGENT)
    assert Priority.BATCH in {each.priority for each in serve(core, 12)}
