"""What waits, in figures: predicted work ahead of a job, and a view of each lane.

Owns the estimates that refusals and retry hints are made of. Knows no rate and no clock;
reads lanes and changes nothing. Called by the core.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.lane import Lane


@dataclass(frozen=True, slots=True)
class LaneView:
    """What one tenant has in one class."""

    priority: int
    """The class; smaller goes first."""
    tenant: str
    """Its name."""
    waiting: int
    """Jobs that wait and that an engine here can hold."""
    waiting_tokens: float
    """Their predicted work, in tokens."""
    running_tokens: float
    """Predicted work of its jobs at engines, in tokens."""
    served_tokens: float
    """What counts against its fair share: work divided by its weight."""


def view(lane: Lane) -> LaneView:
    """The lane as it is now."""
    work = lane.work
    return LaneView(
        lane.priority,
        lane.account.tenant or "",
        lane.waiting,
        work.waiting,
        work.running,
        lane.served,
    )


def work_ahead(lanes: Iterable[Lane], job: Job, work: float, by_length: bool) -> float:
    """Predicted work, in tokens, that starts before `job` if it comes now.

    All that waits in higher classes; of its own tenant in its class what is shorter where the
    policy goes by length, else all; of other tenants there no more than fair shares give them
    in the meantime, by weight.
    """
    ahead = 0.0
    own = 0.0
    others: list[tuple[float, float]] = []
    weight = 1.0
    for lane in lanes:
        if lane.priority < job.priority:
            ahead += lane.work.waiting
        elif lane.priority == job.priority and lane.account.tenant == job.tenant:
            own = lane.shorter_work(work) if by_length else lane.work.waiting
            weight = lane.account.weight
        elif lane.priority == job.priority:
            others.append((lane.work.waiting, lane.account.weight))
    shares = sum(min(waiting, (own + work) * each / weight) for waiting, each in others)
    return ahead + own + shares
