"""The change of order while jobs wait and run, in the core that it happens in."""

from __future__ import annotations

import math
import random

import pytest

from gateway_svc.ordering import SwitchedPolicy
from gateway_svc.scheduling import policy
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job

NAMES = ("ssjf", "bounded-ssjf", "tail-ssjf", "ssjf-ageing")


def core_of(name: str, alpha: float | None = None) -> tuple[SchedulingCore, SwitchedPolicy]:
    options = policy.PolicyOptions(alpha=alpha)
    both = SwitchedPolicy(policy.create(name, options), policy.create("hrrn"))
    return SchedulingCore(both), both


def job(number: int, tokens: float, prompt_tokens: int = 5) -> Job:
    return Job(number, f"r{number}", float(number), prompt_tokens, 1000, tokens)


@pytest.mark.parametrize("name", NAMES)
def test_what_waits_changes_its_order_and_back(name: str) -> None:
    core, both = core_of(name, alpha=math.inf)
    for number, tokens, prompt in ((1, 900.0, 5), (2, 10.0, 900)):
        core.submit(job(number, tokens, prompt))
    assert [each.job_id for each in core.waiting(3.0)] == [2, 1]
    both.switch(to_fallback=True, now_s=3.0)
    assert [each.job_id for each in core.waiting(3.0)] == [1, 2]
    core.check()
    both.switch(to_fallback=False, now_s=3.0)
    assert [each.job_id for each in core.waiting(3.0)] == [2, 1]
    core.check()


@pytest.mark.parametrize("name", NAMES)
def test_nothing_is_lost_whatever_happens_while_the_order_changes(name: str) -> None:
    draw = random.Random(11)
    core, both = core_of(name)
    core.join("e", Room(3, 10**9))
    number, ended = 0, 0
    running: list[int] = []
    for turn in range(1500):
        number += 1
        core.submit(job(number, draw.uniform(1, 900), draw.randint(1, 500)))
        if draw.random() < 0.3:
            core.reprice(draw.randint(1, number), draw.uniform(1, 900))
        if draw.random() < 0.05:
            both.switch(to_fallback=draw.random() < 0.5, now_s=float(turn))
        if draw.random() < 0.02:
            departure = core.leave("e")
            ended += len(departure.lost)
            running.clear()
            core.join("e", Room(3, 10**9))
        while running and draw.random() < 0.7:
            done = running.pop(draw.randrange(len(running)))
            core.finished(done, draw.randint(1, 1000))
            ended += 1
        core.credit("e", Room(3 - len(running), 10**9), 10**9)
        if batch := core.next_batch("e", float(turn)):
            running += [each.job_id for each in batch.jobs]
            if draw.random() < 0.5:
                core.progress(running[-1], 1)
        if not turn % 50:
            core.check()
    assert core.waiting_count + core.running_count + ended == number
    assert core.bound_violations == 0
