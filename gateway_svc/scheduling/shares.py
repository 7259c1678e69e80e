"""Which lane goes next: classes above one another, tenants side by side within a class.

Owns the order of lanes. A class goes before those below it, but each of those is guaranteed
a share of the work while it has jobs waiting. Within a class the tenant goes next that has
had the least service for its weight: virtual token counters (Sheng et al., OSDI 2024,
"Fairness in Serving Large Language Models", Algorithm 2). Called by the core and its picker.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

from gateway_svc.scheduling.lane import Lane


class FairLanes:
    """The lanes of one class that have jobs waiting.

    The heap of `(served, number, stamp, lane)` is kept only while there are two or more; an
    item with another stamp than its lane is stale.
    """

    __slots__ = ("_closed", "_heap", "_last_served", "awake")

    def __init__(self) -> None:
        self.awake: dict[Lane, None] = {}
        self._closed: list[Lane] = []
        self._heap: list[tuple[float, int, int, Lane]] = []
        self._last_served = 0.0

    def wake(self, lane: Lane) -> None:
        """Its first job waits. An idle tenant has earned nothing: it joins at the least served."""
        least = self._least()
        lane.served = max(lane.served, self._last_served if least is None else least.served)
        self.awake[lane] = None
        if len(self.awake) == 2:
            for each in self.awake:
                self._list(each)
        else:
            self.update(lane)

    def sleep(self, lane: Lane) -> None:
        """Nothing of it waits any more."""
        del self.awake[lane]
        lane.stamp += 1
        self._last_served = lane.served
        if len(self.awake) < 2:
            self._heap.clear()

    def update(self, lane: Lane) -> None:
        """What an awake lane has been served has changed."""
        if len(self.awake) > 1:
            self._list(lane)

    def choose(self) -> Lane | None:
        """The least served lane that is not closed; None where there is none."""
        if len(self.awake) > 1:
            return self._least()
        lane = next(iter(self.awake), None)
        return None if lane in self._closed else lane

    def close(self, lane: Lane) -> None:
        """Leaves a lane out until `reopen`."""
        self._closed.append(lane)
        lane.stamp += 1

    def reopen(self) -> None:
        """Every lane may be chosen again."""
        if self._closed:
            closed, self._closed = self._closed, []
            for lane in closed:
                if lane in self.awake:
                    self.update(lane)

    def _least(self) -> Lane | None:
        if len(self.awake) < 2:
            return next(iter(self.awake), None)
        heap = self._heap
        while heap:
            _, _, stamp, lane = heap[0]
            if stamp == lane.stamp:
                return lane
            heappop(heap)
        return None

    def _list(self, lane: Lane) -> None:
        lane.stamp += 1
        heappush(self._heap, (lane.served, lane.number, lane.stamp, lane))


class Classes:
    """All lanes that have jobs waiting, by class.

    `_owed` is what a class lacks of its guaranteed share, in tokens of work, never above 0: a
    turn is due at 0. It starts at minus the work of its first job, so that a class gets nothing
    for having been idle, and a turn costs the work of the job that took it.
    """

    __slots__ = ("_gain", "_owed", "lanes")

    def __init__(self, shares: Sequence[float]) -> None:
        self.lanes = tuple(FairLanes() for _ in shares)
        # Counted against the work of the others: s of all is s / (1 - s) of the rest.
        self._gain = [share / (1.0 - share) for share in shares]
        self._owed = [0.0] * len(shares)

    def wake(self, lane: Lane, work: float) -> None:
        """The first job of a lane waits, of so much work."""
        lanes = self.lanes[lane.priority]
        if not lanes.awake:
            self._owed[lane.priority] = min(self._owed[lane.priority], -work)
        lanes.wake(lane)

    def choose(self) -> Lane | None:
        """The lane to take the next job from: a class with a turn due, else the highest."""
        chosen: Lane | None = None
        for priority, lanes in enumerate(self.lanes):
            if not lanes.awake:
                continue
            if chosen is None or (self._owed[priority] >= 0.0 and self._gain[priority] > 0.0):
                chosen = lanes.choose() or chosen
        return chosen

    def started(self, lane: Lane, work: float) -> None:
        """A job of the lane has started."""
        owed = self._owed
        for priority, lanes in enumerate(self.lanes):
            if priority == lane.priority:
                owed[priority] = -work
            elif lanes.awake:
                owed[priority] = min(0.0, owed[priority] + work * self._gain[priority])
        if lane.waiting:
            self.lanes[lane.priority].update(lane)
        else:
            self.lanes[lane.priority].sleep(lane)

    def left(self, lane: Lane) -> None:
        """A job of the lane has left its line without starting."""
        if not lane.waiting:
            self.lanes[lane.priority].sleep(lane)

    def settled(self, lane: Lane) -> None:
        """A job of the lane has ended, and what was predicted has become what was used."""
        if lane.waiting:
            self.lanes[lane.priority].update(lane)

    def reopen(self) -> None:
        """Ends a decision: every lane may be chosen again."""
        for lanes in self.lanes:
            lanes.reopen()
