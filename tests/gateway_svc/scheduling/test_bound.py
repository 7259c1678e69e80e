"""The bound on being overtaken, alone: budgets by hand."""

from __future__ import annotations

import pytest

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.bound import OvertakingBound
from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.lane import Lane
from gateway_svc.scheduling.quota import Account, Tenant
from tests.gateway_svc.scheduling.jobs import job

LANE = Lane(0, 1, Account(Tenant(), ""), policy.create("fcfs"), 0.0)


def entry(number: int, max_tokens: int = 10) -> Entry:
    return Entry(job(number, max_tokens=max_tokens), number, LANE, 0.0)


def bound_with(*entries: Entry, alpha: float = 1.5, slack: float = 20.0) -> OvertakingBound:
    bound = OvertakingBound(alpha, slack)
    for each in entries:
        bound.arrive(each)
    return bound


def test_what_runs_counts_with_all_that_it_may_produce_until_it_has_ended() -> None:
    first, second, third, fourth = (entry(number) for number in range(1, 5))
    bound = bound_with(first, second, third, fourth)
    for overtaker in (second, third):
        assert bound.blocker(overtaker) is None
        bound.start(overtaker)
    assert bound.budget_tokens(first) == 0
    assert bound.blocker(fourth) is first
    bound.end(second, 4)
    assert bound.budget_tokens(first) == 6
    bound.end(third, 1)
    assert bound.budget_tokens(first) == 15
    assert bound.blocker(fourth) is None


def test_work_ahead_that_has_been_done_may_be_overtaken_in_proportion() -> None:
    ahead, first = entry(1, max_tokens=100), entry(2)
    bound = bound_with(ahead, first)
    bound.start(ahead)
    assert bound.budget_tokens(first) == 20
    bound.end(ahead, 60)
    assert bound.budget_tokens(first) == 20 + 0.5 * 60


def test_work_that_had_ended_before_a_job_came_gives_it_no_budget_to_be_overtaken() -> None:
    earlier, first = entry(1), entry(2)
    bound = bound_with(earlier)
    bound.start(earlier)
    bound.end(earlier, 10)
    bound.arrive(first)
    assert bound.budget_tokens(first) == 20


def test_the_earliest_who_would_be_overtaken_too_much_is_named() -> None:
    entries = [entry(number, max_tokens=15) for number in range(1, 5)]
    bound = bound_with(*entries)
    bound.start(entries[2])
    assert bound.blocker(entries[3]) is entries[0]
    assert bound.blocker(entries[1]) is entries[0]
    assert bound.blocker(entries[0]) is None
    bound.withdraw(entries[0])
    assert bound.blocker(entries[3]) is entries[1]
    assert bound.blocker(entries[1]) is None


def test_a_long_job_is_held_back_where_a_short_one_may_pass() -> None:
    first, long, short = entry(1), entry(2, max_tokens=21), entry(3, max_tokens=20)
    bound = bound_with(first, long, short)
    assert bound.blocker(long) is first
    assert bound.blocker(short) is None


def test_a_job_that_comes_back_is_overtaken_anew_but_by_no_more_than_the_bound() -> None:
    first, second, third = entry(1), entry(2, max_tokens=8), entry(3)
    bound = bound_with(first, second, third)
    bound.start(first)
    bound.start(second)
    bound.end(first, 0)
    bound.come_back(first, [second])
    assert bound.budget_tokens(first) == 20 - 8
    bound.end(second, 8)
    assert bound.budget_tokens(first) == 20 - 8
    assert bound.blocker(third) is None


def test_a_job_that_comes_back_behind_more_than_its_budget_is_not_a_violation() -> None:
    first, second = entry(1), entry(2, max_tokens=50)
    bound = bound_with(first)
    bound.start(first)
    bound.arrive(second)
    bound.start(second)
    bound.end(first, 0)
    bound.come_back(first, [second])
    assert bound.budget_tokens(first) == -30
    assert not bound.breached(first)
    bound.start(first)
    assert bound.violations == 0


def test_an_answer_longer_than_its_max_tokens_is_counted_where_it_breaks_the_bound() -> None:
    first, liar = entry(1), entry(2)
    bound = bound_with(first, liar)
    bound.start(liar)
    bound.end(liar, 21)
    assert bound.breached(first)
    bound.start(first)
    assert bound.violations == 1


@pytest.mark.parametrize("waits", [0, 7, 500])
def test_budgets_survive_that_old_jobs_are_forgotten(waits: int) -> None:
    entries = [entry(number) for number in range(1, 1001)]
    bound = OvertakingBound(1.5, 1e6)
    for each in entries:
        bound.arrive(each)
        if each is not entries[waits]:
            bound.start(each)
            bound.end(each, 2)
            bound.forget(each)
    passed = len(entries) - waits - 1
    assert bound.budget_tokens(entries[waits]) == 1e6 - 2 * passed
    assert len(bound._entries) < 200
