"""Lines that policies are made of: ordered by a key, and by a key until a job is due.

Own heaps of items `(key, number, stamp, entry)`. An entry that left or moved has another
stamp by then, so its old items are skipped when they come up, and swept out before they
outweigh the rest. Every operation is O(log n), amortised, but `company`, which is asked for
where a whole batch is led by a long job.
"""

from __future__ import annotations

from collections.abc import Callable
from heapq import heapify, heappop, heappush, nlargest
from math import inf

from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.policy import Line

Key = Callable[[Entry], float]
Item = tuple[float, int, int, Entry]


class KeyedLine(Line):
    """Smallest key first, ties by arrival. The key is fixed from `add` on."""

    __slots__ = ("_heap", "_key", "_stale")

    def __init__(self, key: Key) -> None:
        self._key = key
        self._heap: list[Item] = []
        self._stale = 0

    def add(self, entry: Entry) -> None:
        """Finds a new job its place."""
        entry.key = self._key(entry)
        heappush(self._heap, (entry.key, entry.number, entry.stamp, entry))

    rekey = add

    def restore(self, entry: Entry) -> None:
        """Puts a popped job back."""
        heappush(self._heap, (entry.key, entry.number, entry.stamp, entry))

    def pop(self, now_s: float) -> Entry | None:
        """The job with the smallest key."""
        del now_s  # the same for all time
        heap = self._heap
        while heap:
            _, _, stamp, entry = heappop(heap)
            if stamp == entry.stamp:
                return entry
            self._stale -= 1
        return None

    def drop(self, entry: Entry) -> None:
        """Forgets a job that the line holds."""
        entry.stamp += 1
        self._stale += 1
        if self._stale > 64 + len(self._heap) // 2:
            self._heap = current(self._heap)
            self._stale = 0

    def in_order(self, now_s: float) -> list[Entry]:
        """Every job by its key."""
        del now_s
        return [item[3] for item in sorted(current(self._heap))]


class DueLine(Line):
    """Smallest key first, but a job that is due goes before all that are not.

    `due` says at which reading of `clock` a job is due; both are read when it is added. Of
    the jobs that are due the earliest due goes first, ties by arrival. Keys are work.
    """

    __slots__ = ("_by_due", "_by_key", "_clock", "_due", "_key", "_live")

    def __init__(self, key: Key, due: Key, clock: Callable[[], float]) -> None:
        self._key = key
        self._due = due
        self._clock = clock
        self._by_key: list[Item] = []
        self._by_due: list[Item] = []
        self._live = 0

    def add(self, entry: Entry) -> None:
        """Finds a new job its place."""
        entry.due = self._due(entry)
        self.rekey(entry)

    def rekey(self, entry: Entry) -> None:
        """Finds a job its place again; it is due when it was."""
        entry.key = self._key(entry)
        self.restore(entry)

    def restore(self, entry: Entry) -> None:
        """Puts a popped job back."""
        self._live += 1
        heappush(self._by_key, (entry.key, entry.number, entry.stamp, entry))
        heappush(self._by_due, (entry.due, entry.number, entry.stamp, entry))

    def pop(self, now_s: float) -> Entry | None:
        """The earliest due of those that are due, else the one with the smallest key."""
        del now_s  # the clock is the lane's own
        due = self._by_due
        while due and due[0][2] != due[0][3].stamp:
            heappop(due)
        heap = due if due and due[0][0] <= self._clock() else self._by_key
        while heap:
            _, _, stamp, entry = heappop(heap)
            if stamp == entry.stamp:
                self.drop(entry)  # its item in the other heap
                return entry
        return None

    def drop(self, entry: Entry) -> None:
        """Forgets a job that the line holds."""
        entry.stamp += 1
        self._live -= 1
        if len(self._by_key) + len(self._by_due) > 64 + 4 * self._live:
            self._by_key = current(self._by_key)
            self._by_due = current(self._by_due)

    def company(self, work: float, most: int) -> list[Entry]:
        """Those with the largest keys up to `work`."""
        return nearest_below(self._by_key, work, most)

    def in_order(self, now_s: float) -> list[Entry]:
        """The jobs that are due, then the others."""
        del now_s
        clock = self._clock()
        due = [item[3] for item in sorted(current(self._by_due)) if item[0] <= clock]
        others = [item[3] for item in sorted(current(self._by_key)) if item[3].due > clock]
        return due + others


def nearest_below(heap: list[Item], work: float, most: int) -> list[Entry]:
    """The live jobs of a heap whose keys are work that have no more than `work`.

    At most `most` of them, most work first, ties by arrival. O(n), but O(1) where there is none.
    """
    if first_key(heap) > work:
        return []
    below = (item for item in heap if item[0] <= work and item[2] == item[3].stamp)
    return [item[3] for item in nlargest(most, below, key=lambda item: (item[0], -item[1]))]


def first_key(heap: list[Item]) -> float:
    """The key of a heap's first live job, after whatever is stale; infinity without any."""
    while heap and heap[0][2] != heap[0][3].stamp:
        heappop(heap)
    return heap[0][0] if heap else inf


def current(heap: list[Item]) -> list[Item]:
    """The heap without its stale items."""
    kept = [item for item in heap if item[2] == item[3].stamp]
    heapify(kept)
    return kept
