"""When waiting jobs expire: at their deadline, or when they have waited too long.

Owns the order of expiries only; the core drops the jobs. Jobs that never expire cost
nothing.
"""

from __future__ import annotations

from enum import Enum
from heapq import heapify, heappop, heappush
from math import inf

from gateway_svc.scheduling.entry import Entry, State

WAITS = (State.WAITING, State.PARKED)


class Expiry(Enum):
    """Why a waiting job was dropped."""

    DEADLINE = "deadline"
    QUEUE_TIMEOUT = "queue_timeout"


class Expiries:
    """A heap of `(expires_s, number, entry)`; items of jobs that wait no more are swept out."""

    __slots__ = ("_heap", "_queue_timeout_s")

    def __init__(self, queue_timeout_s: float) -> None:
        self._queue_timeout_s = queue_timeout_s
        self._heap: list[tuple[float, int, Entry]] = []

    def watch(self, entry: Entry, waiting: int) -> None:
        """A job waits, one of so many."""
        job = entry.job
        entry.expires_s = min(job.deadline_s, job.arrival_s + self._queue_timeout_s)
        if entry.expires_s == inf or entry.expiry_listed:
            return
        entry.expiry_listed = True
        heappush(self._heap, (entry.expires_s, entry.number, entry))
        if len(self._heap) > 64 + 2 * waiting:
            self._sweep()

    def pop(self, now_s: float) -> Entry | None:
        """The next waiting job whose time has come, taken out."""
        while self._heap and self._heap[0][0] <= now_s:
            entry = heappop(self._heap)[2]
            entry.expiry_listed = False
            if entry.state in WAITS:
                return entry
        return None

    def next_s(self) -> float:
        """When the next waiting job expires; infinite where never."""
        heap = self._heap
        while heap and heap[0][2].state not in WAITS:
            heappop(heap)[2].expiry_listed = False
        return heap[0][0] if heap else inf

    def why(self, entry: Entry, now_s: float) -> Expiry:
        """What made it expire."""
        late = entry.job.deadline_s <= now_s
        return Expiry.DEADLINE if late else Expiry.QUEUE_TIMEOUT

    def watches(self, entry: Entry) -> bool:
        """Whether `entry` is in its place here."""
        return entry.expiry_listed or entry.expires_s == inf

    def _sweep(self) -> None:
        for _, _, entry in self._heap:
            entry.expiry_listed = entry.state in WAITS
        self._heap = [item for item in self._heap if item[2].expiry_listed]
        heapify(self._heap)
