from __future__ import annotations

from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.tally import Group, Tally


def job(tokens: float, priority: Priority = Priority.STANDARD, tenant: str = "a") -> Job:
    return Job(1, "r", 0.0, 3, 100, predicted_tokens=tokens, priority=priority, tenant=tenant)


def test_jobs_are_counted_where_they_are() -> None:
    tally = Tally()
    short, long, urgent = job(5.0), job(500.0), job(7.0, Priority.URGENT, "b")
    for each in (short, long, urgent):
        tally.waits(each)
    assert tally.of_class(Priority.STANDARD) == Group(2, 0, 105.0)  # clipped by max_tokens
    assert tally.waiting_tokens == 112.0
    tally.waits_no_more(short)
    tally.runs(short)
    assert tally.of_class(Priority.STANDARD) == Group(1, 1, 100.0)
    assert (tally.waiting_of("a"), tally.running_of("a"), tally.waiting_tokens_of("b")) == (1, 1, 7)
    tally.runs_no_more(short)
    assert tally.running_of("a") == 0


def test_an_empty_queue_is_exactly_empty() -> None:
    tally = Tally()
    jobs = [job(0.1), job(0.2), job(0.3)]
    for each in jobs:
        tally.waits(each)
    for each in jobs:
        tally.waits_no_more(each)
    assert tally.waiting_tokens == 0.0
