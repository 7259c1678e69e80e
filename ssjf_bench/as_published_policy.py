"""Shortest job first with the SSJF paper's starvation rule, for the live scheduling core.

At each decision the job that has waited longest is looked at: if it starves, the whole
batch is taken by waiting time, else by predicted work. Used by `as_published_sim` alone;
what the gateway offers against starvation is in its own policies.
"""

from __future__ import annotations

from collections.abc import Callable

from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.policy import LaneWork, Line
from ssjf_bench.as_published import STARVING_S, STARVING_SERVICES

Service = Callable[[Entry], float]
"""Seconds that a job takes, as far as the rule may know."""


class SsjfUnlessStarving:
    """Orders by predicted work; `service_s` is what the starvation rule reads."""

    alpha = None
    by_length = True

    def __init__(self, service_s: Service) -> None:
        self._service_s = service_s

    def line(self, work: LaneWork) -> Line:
        """The rule reads no work of the lane."""
        del work
        return _Line(self._service_s)


class _Line(Line):
    """The waiting jobs in one list, sorted anew at each decision: there are few of them.

    Both orders are stable, as in the paper's simulator: ties stay as the last decision left
    them, and who comes or comes back stands behind them.
    """

    def __init__(self, service_s: Service) -> None:
        self._service_s = service_s
        self._waiting: list[Entry] = []
        self._decided_s = -1.0

    def add(self, entry: Entry) -> None:
        """A job waits, or waits again."""
        self._waiting.append(entry)

    rekey = add

    def restore(self, entry: Entry) -> None:
        """A job that was taken goes first again."""
        self._waiting.insert(0, entry)

    def drop(self, entry: Entry) -> None:
        """Forgets a job."""
        entry.stamp += 1
        self._waiting.remove(entry)

    def pop(self, now_s: float) -> Entry | None:
        """The next job; one order holds for all that are taken at the same time."""
        if now_s != self._decided_s:
            self._decided_s = now_s
            self._waiting = self.in_order(now_s)
        return self._waiting.pop(0) if self._waiting else None

    def in_order(self, now_s: float) -> list[Entry]:
        """All jobs in the order of a decision now."""
        oldest = min(self._waiting, key=_came_s, default=None)
        if oldest is None:
            return []
        limit_s = min(STARVING_S, STARVING_SERVICES * self._service_s(oldest))
        starves = now_s - _came_s(oldest) > limit_s
        return sorted(self._waiting, key=_came_s if starves else _work)


def _came_s(entry: Entry) -> float:
    return entry.job.arrival_s


def _work(entry: Entry) -> float:
    return entry.work
