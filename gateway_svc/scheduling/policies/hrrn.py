"""Highest response ratio next (Brinch Hansen, 1971), on what is known or on predictions.

The ratio (wait + service) / service of every job changes with time, so no constant key
holds the order. Jobs of about the same service (within 9 %) share a bucket, in which the
earliest always leads; a decision compares the leaders. By default service is what is known
without a prediction: prompt length and max_tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from heapq import heapify, heappop, heappush
from typing import Final

from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.policy import LaneWork, Line, PolicyOptions, register

BUCKETS_PER_DOUBLING: Final = 8
Item = tuple[int, int, Entry]


@register("hrrn")
class Hrrn:
    """Orders by response ratio."""

    alpha = None

    def __init__(self, options: PolicyOptions) -> None:
        self._typical_tokens = options.typical_tokens
        self._predicted = options.hrrn_on_predictions
        self.by_length = options.hrrn_on_predictions

    def line(self, work: LaneWork) -> Line:
        """Service is in tokens: its unit does not change the order."""
        del work
        return _RatioLine(_predicted if self._predicted else self._known)

    def _known(self, entry: Entry) -> float:
        return entry.prefill_work + min(float(entry.max_tokens), self._typical_tokens)


def _predicted(entry: Entry) -> float:
    return entry.work


class _RatioLine(Line):
    """Heaps of `(number, stamp, entry)`, one for each bucket of service."""

    def __init__(self, service: Callable[[Entry], float]) -> None:
        self._service = service
        self._buckets: dict[int, list[Item]] = {}
        self._stale = 0
        self._size = 0

    def add(self, entry: Entry) -> None:
        """Finds a job its place."""
        entry.key = max(self._service(entry), 1e-9)
        self.restore(entry)

    rekey = add

    def restore(self, entry: Entry) -> None:
        """Puts a popped job back."""
        bucket = math.floor(BUCKETS_PER_DOUBLING * math.log2(entry.key))
        heappush(self._buckets.setdefault(bucket, []), (entry.number, entry.stamp, entry))
        self._size += 1

    def pop(self, now_s: float) -> Entry | None:
        """The job with the highest ratio now; ties by arrival."""
        best: tuple[float, int] | None = None
        leading: list[Item] | None = None
        for number in list(self._buckets):
            heap = self._buckets[number]
            while heap and heap[0][1] != heap[0][2].stamp:
                heappop(heap)
                self._size -= 1
                self._stale -= 1
            if not heap:
                del self._buckets[number]
                continue
            rank = _rank(heap[0][2], now_s)
            if best is None or rank < best:
                best, leading = rank, heap
        if leading is None:
            return None
        self._size -= 1
        return heappop(leading)[2]

    def drop(self, entry: Entry) -> None:
        """Forgets a job that the line holds."""
        entry.stamp += 1
        self._stale += 1
        if self._stale > 64 + self._size // 2:
            for heap in self._buckets.values():
                heap[:] = [item for item in heap if item[1] == item[2].stamp]
                heapify(heap)
            self._size = sum(len(heap) for heap in self._buckets.values())
            self._stale = 0

    def in_order(self, now_s: float) -> list[Entry]:
        """Every job by its ratio now."""
        entries = [
            entry
            for heap in self._buckets.values()
            for _, stamp, entry in heap
            if stamp == entry.stamp
        ]
        return sorted(entries, key=lambda entry: _rank(entry, now_s))


def _rank(entry: Entry, now_s: float) -> tuple[float, int]:
    return (entry.job.arrival_s - now_s) / entry.key, entry.number
