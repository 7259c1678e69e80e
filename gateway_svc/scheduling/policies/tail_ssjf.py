"""SSJF with a chosen tail: shortest predicted first, and hardly a job much later than FCFS's p99.

At any moment every policy has the same work left to do, so by Little's law the least mean
comes from holding it in the fewest, that is the longest, jobs. What limits this is the
tail; and the tail is set by the worst moments, so a job that came in a quiet one may be
held back longer than a bound on its own wait would let it. The line keeps what first come,
first served would have made of the latest arrivals, and a job is due when its completion
would come to more than `tail` times the 99th percentile of that.

A percentile of 99 does not see one job in a hundred: the longest 0.8 % may be given
`tail_longest` times as long. The core adds the bound of `alpha` on each job's own wait.
"""

from __future__ import annotations

from heapq import heappop, heappush
from math import isinf
from typing import Final

from gateway_svc.scheduling.calibration import Calibration
from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.lines import Item, current, first_key, nearest_below
from gateway_svc.scheduling.percentile import Percentile
from gateway_svc.scheduling.policy import LaneWork, Line, PolicyOptions, register

DEFAULT_ALPHA: Final = 4.0
"""Seldom what holds a job to the tail; what it may rely on whatever the predictions say."""
SERVICE_SHARE: Final = 0.5
"""How much of a job's own service counts as part of its completion time: its own tokens come
at the pace of one place among those that run, and not all of them have to run that long."""
LONGEST_SHARE: Final = 0.008
"""Less than a hundredth, since some others will miss the tail, too."""
KNOWN_JOBS: Final = 100
"""Arrivals before any is among the longest."""


@register("tail-ssjf")
class TailSsjf:
    """Orders by predicted work, those first that are due."""

    by_length = True

    def __init__(self, options: PolicyOptions) -> None:
        self._tail = options.tail
        self._tail_longest = options.tail * options.tail_longest
        alpha = DEFAULT_ALPHA if options.alpha is None else options.alpha
        self.alpha: float | None = None if isinf(alpha) else alpha
        self._calibration = Calibration()

    def line(self, work: LaneWork) -> Line:
        """Each lane has its own clock and tail; what predictions are worth is common."""
        del work  # in predicted tokens; this line counts in expected ones
        return _TailLine(self._tail, self._tail_longest, self._calibration)


class _TailLine(Line):
    """Heaps `(order, number, stamp, entry)`, by predicted work and by when a job is due.

    `entry.key` is its expected work, `entry.due` the clock at its arrival. The clock counts
    what the lane has done in tokens: actual ones of jobs that ended, expected ones of those
    that run.
    """

    def __init__(self, tail: float, tail_longest: float, calibration: Calibration) -> None:
        self._tails = (tail, tail_longest)
        self._calibration = calibration
        self._fcfs_p99 = Percentile(0.99)
        self._longest = Percentile(1 - LONGEST_SHARE, KNOWN_JOBS)
        self._by_work: list[Item] = []
        self._by_due: tuple[list[Item], list[Item]] = ([], [])  # of most jobs, of the longest
        self._stale = 0
        self._waiting = self._running = self._ended = 0.0
        self._running_jobs = 0

    def add(self, entry: Entry) -> None:
        """Notes what first come, first served would make of the job, and finds it its place."""
        entry.due = self._ended + self._running
        entry.key = self._expected(entry)
        self._fcfs_p99.observe(self._waiting + self._running / 2 + self._service(entry.key))
        if self._tails[0] < self._tails[1]:  # else none is told apart
            self._longest.observe(entry.work)
        self.restore(entry)

    def rekey(self, entry: Entry) -> None:
        """A place under another prediction; the clock at its arrival stays."""
        entry.key = self._expected(entry)
        self.restore(entry)

    def restore(self, entry: Entry) -> None:
        """Puts a job back."""
        expected = entry.key
        self._waiting += expected
        heappush(self._by_work, (entry.work, entry.number, entry.stamp, entry))
        by_due = self._by_due[entry.work > self._longest.value]
        due = entry.due - self._service(expected)
        heappush(by_due, (due, entry.number, entry.stamp, entry))

    def pop(self, now_s: float) -> Entry | None:
        """The earliest due of those that are due, else the one with the least predicted work."""
        del now_s  # the clock is the lane's own
        heap = self._due_now() or self._by_work
        while heap:
            _, _, stamp, entry = heappop(heap)
            if stamp == entry.stamp:
                self.drop(entry)
                return entry
        return None

    def _due_now(self) -> list[Item] | None:
        """The heap whose first job is due; the longest jobs after the others."""
        before, before_longest = self._due_before()
        most, longest = self._by_due
        if first_key(most) <= before:
            return most
        if first_key(longest) <= before_longest:
            return longest
        return None

    def company(self, work: float, most: int) -> list[Entry]:
        """Those with the most predicted work up to `work`."""
        return nearest_below(self._by_work, work, most)

    def drop(self, entry: Entry) -> None:
        """Forgets a job that the line holds."""
        self._waiting -= entry.key
        entry.stamp += 1  # its items in the heaps
        self._stale += 1
        if self._stale > 64 + len(self._by_work) // 2:
            self._by_work = current(self._by_work)
            self._by_due = (current(self._by_due[0]), current(self._by_due[1]))
            self._stale = 0

    def started(self, entry: Entry) -> None:
        """Its expected work counts as done; it will be put right when it ends."""
        self._running += entry.key
        self._running_jobs += 1

    def stopped(self, entry: Entry, *, returns: bool) -> None:
        """What it really did counts, unless it did it in vain."""
        self._running -= entry.key
        self._running_jobs -= 1
        if not returns:
            self._ended += entry.prefill_work + entry.output_tokens
            self._calibration.learn(entry.job.expected_output_tokens, entry.output_tokens)

    def in_order(self, now_s: float) -> list[Entry]:
        """The jobs that are due, then the others."""
        del now_s
        due = [
            item[3]
            for by_due, before in zip(self._by_due, self._due_before(), strict=True)
            for item in sorted(current(by_due))
            if item[0] <= before
        ]
        known = {entry.number for entry in due}
        rest = [item[3] for item in sorted(current(self._by_work))]
        return due + [entry for entry in rest if entry.number not in known]

    def _due_before(self) -> tuple[float, float]:
        """Up to which place in each heap by due jobs are due."""
        clock, p99 = self._ended + self._running, self._fcfs_p99.value
        return clock - self._tails[0] * p99, clock - self._tails[1] * p99

    def _expected(self, entry: Entry) -> float:
        predicted = entry.job.expected_output_tokens
        return entry.prefill_work + self._calibration.expected(predicted)

    def _service(self, expected_tokens: float) -> float:
        """What the lane does while a job of that work itself runs, as far as it counts; tokens."""
        return SERVICE_SHARE * max(1, self._running_jobs) * expected_tokens
