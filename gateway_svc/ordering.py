"""The policy in force: the configured one, or the fallback while predictions are bad.

Owns the window of outcomes, the verdict on it, and the change of order of what waits.
The configured policy's bound on being overtaken stays in force throughout. Built by the
composition root; the dispatcher tells it of every end.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway_svc import metrics
from gateway_svc.quality import Outcome, PredictionWindow, Trust
from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.policy import LaneWork, Line, Policy
from ssjf.wire import logs


class SwitchedLine(Line):
    """A line in either of two policies' orders.

    Each switch begins a line of its own. What has started under an earlier one ends there:
    what a line keeps about a job is nothing to another.
    """

    def __init__(self, work: LaneWork, policy: Policy) -> None:
        self._work = work
        self._line = policy.line(work)
        self._running: dict[int, Line] = {}
        self._strangers: set[int] = set()  # have come back, and the line in force knows nothing

    def add(self, entry: Entry) -> None:
        """See `Line`."""
        self._line.add(entry)

    def rekey(self, entry: Entry) -> None:
        """See `Line`."""
        if entry.number in self._strangers:
            self._strangers.remove(entry.number)
            self._line.add(entry)
        else:
            self._line.rekey(entry)

    def restore(self, entry: Entry) -> None:
        """See `Line`."""
        self._line.restore(entry)

    def pop(self, now_s: float) -> Entry | None:
        """See `Line`."""
        return self._line.pop(now_s)

    def drop(self, entry: Entry) -> None:
        """See `Line`."""
        self._line.drop(entry)

    def started(self, entry: Entry) -> None:
        """See `Line`."""
        self._running[entry.number] = self._line
        self._line.started(entry)

    def stopped(self, entry: Entry, *, returns: bool) -> None:
        """See `Line`."""
        line = self._running.pop(entry.number)
        line.stopped(entry, returns=returns)
        if returns and line is not self._line:
            self._strangers.add(entry.number)

    def in_order(self, now_s: float) -> list[Entry]:
        """See `Line`."""
        return self._line.in_order(now_s)

    def switch(self, policy: Policy, now_s: float) -> None:
        """Puts what waits into another policy's order, as if it came now."""
        waiting, self._line = self._line.in_order(now_s), policy.line(self._work)
        for entry in sorted(waiting, key=lambda entry: entry.number):
            entry.stamp += 1
            self._line.add(entry)


class SwitchedPolicy:
    """Two policies, one of which orders; a `Policy` itself."""

    def __init__(self, configured: Policy, fallback: Policy) -> None:
        self._configured = configured
        self._fallback = fallback
        self._active = configured
        self._lines: list[SwitchedLine] = []

    @property
    def alpha(self) -> float | None:
        """The configured policy's bound."""
        return self._configured.alpha

    @property
    def by_length(self) -> bool:
        """Whether shorter jobs go first in the main."""
        return self._active.by_length

    def line(self, work: LaneWork) -> Line:
        """An empty line in the order in force."""
        self._lines.append(SwitchedLine(work, self._active))
        return self._lines[-1]

    def switch(self, *, to_fallback: bool, now_s: float) -> None:
        """Changes the order of everything that waits."""
        self._active = self._fallback if to_fallback else self._configured
        for line in self._lines:
            line.switch(self._active, now_s)


@dataclass(slots=True)
class Ordering:
    """How the queue is ordered, and how well predictions have done."""

    configured: str
    """Name of the configured policy."""
    fallback: str
    """Name of the one that orders while predictions are not trusted."""
    policy: SwitchedPolicy
    window: PredictionWindow
    trust: Trust

    @property
    def active(self) -> str:
        """Name of the policy in force."""
        return self.fallback if self.trust.lost else self.configured

    def learn(self, outcome: Outcome, now_s: float) -> None:
        """An answer that the predictor foretold has ended by itself."""
        self.window.add(outcome)
        tau_b = self.window.tau_b
        if self.trust.judge(tau_b):
            self.policy.switch(to_fallback=self.trust.lost, now_s=now_s)
            log = logs.get_logger().bind(tau_b=tau_b, order=self.active)
            if self.trust.lost:
                log.warning("predictions order too badly, known quantities order the queue")
            else:
                log.info("predictions order the queue again")
        self._observe(tau_b)

    def _observe(self, tau_b: float | None) -> None:
        metrics.FALLBACK.set(self.trust.lost)
        metrics.PREDICTION_COUNT.set(self.window.count)
        if tau_b is not None:
            metrics.PREDICTION_TAU_B.set(tau_b)
        if (ratio := self.window.predicted_to_actual) is not None:
            metrics.PREDICTION_BIAS.set(ratio)
        if (coverage := self.window.p90_coverage) is not None:
            metrics.PREDICTION_P90_COVERAGE.set(coverage)
