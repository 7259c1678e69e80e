"""One decision: the jobs that start now on one engine, one after the other.

Owns what holds within a decision only: the memory that is left, the jobs set aside because
they do not fit, the lanes that have nothing to give, and the company of a whole batch: as
it lasts as long as its longest job, a lane that has named its first fills it up with those
nearest to that length, which cost the batch nothing. Called by the core for every
`next_batch`.
"""

from __future__ import annotations

import sys
from typing import Final

from gateway_svc.scheduling.bound import OvertakingBound
from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.lane import Lane
from gateway_svc.scheduling.shares import Classes

LOOK_AHEAD: Final = 64
"""Jobs that one decision sets aside at most: keeps it short where little fits."""


class Picker:
    """Picks jobs until the caller has enough or `pick` has none; then `close`."""

    __slots__ = (
        "_aside",
        "_classes",
        "_company",
        "_kv_tokens",
        "_largest",
        "_longest_work",
        "_max_passes",
        "_may_start",
        "_now_s",
        "_passed",
        "_picked",
        "_places",
    )

    def __init__(
        self,
        classes: Classes,
        kv_tokens: int,
        largest: int,
        max_passes: int,
        now_s: float,
        whole_batch: int = 0,
    ) -> None:
        """`whole_batch`: the places of a batch that runs to completion; 0 for other batches."""
        self._classes = classes
        self._kv_tokens = kv_tokens
        self._largest = largest
        self._max_passes = max_passes
        self._now_s = now_s
        self._picked = 0
        self._may_start = sys.maxsize  # how many more before one that was passed has had enough
        self._aside: list[Entry] = []
        self._passed: list[tuple[Entry, int]] = []
        self._places = whole_batch
        self._longest_work = 0.0
        # Of lanes that were picked from: their company, least work first, None where it has
        # to be asked for; each with the stamp that says whether the line still holds it.
        self._company: dict[Lane, list[tuple[Entry, int]] | None] = {}

    def pick(self) -> Entry | None:
        """The next job to start, out of its line; None where none may start or fits."""
        while self._may_start > 0 and len(self._aside) < LOOK_AHEAD:
            lane = self._classes.choose()
            if lane is None:
                return None
            entry = self._from(lane) if lane.account.may_run > 0 else None
            if entry is not None:
                self._picked += 1
                self._may_start -= 1
                self._kv_tokens -= entry.kv_tokens
                if self._places:
                    self._picked_from(lane, entry)
                return entry
            self._classes.lanes[lane.priority].close(lane)
        return None

    def close(self) -> None:
        """Counts who was passed, and puts back what was set aside."""
        for entry, picked_before in self._passed:
            entry.passes += self._picked - picked_before
        for entry in self._aside:
            entry.lane.line.restore(entry)
        self._classes.reopen()

    def _from(self, lane: Lane) -> Entry | None:
        while len(self._aside) < LOOK_AHEAD and self._may_start > 0:
            entry = self._next(lane)
            if entry is None:
                return None
            if entry.kv_tokens > self._kv_tokens or entry.kv_tokens > self._largest:
                self._set_aside(entry)
            elif lane.bound is None:
                return entry
            else:
                return self._unless_overtaken(lane, entry, lane.bound)
        return None

    def _next(self, lane: Lane) -> Entry | None:
        """Company for those picked, as far as the lane has any; else whom its policy names."""
        if lane in self._company:
            company = self._company[lane]
            if company is None:
                # As many as can be needed: those that do not fit are set aside.
                most = self._places - self._picked + LOOK_AHEAD
                found = lane.line.company(self._longest_work, most)
                company = self._company[lane] = [(each, each.stamp) for each in reversed(found)]
            while company:
                entry, stamp = company.pop()
                if entry.stamp == stamp:
                    lane.line.drop(entry)
                    return entry
        return lane.line.pop(self._now_s)

    def _picked_from(self, lane: Lane, entry: Entry) -> None:
        self._company.setdefault(lane, None)
        if entry.work > self._longest_work:
            self._longest_work = entry.work
            self._company = dict.fromkeys(self._company)

    def _unless_overtaken(self, lane: Lane, entry: Entry, bound: OvertakingBound) -> Entry | None:
        """`entry`, or whom it must not overtake; None where that one does not fit.

        Who has been overtaken to the limit holds up the later arrivals of its lane.
        """
        first = entry
        while (blocker := bound.blocker(first)) is not None:
            first = blocker
        if first is entry:
            return entry
        lane.line.restore(entry)
        if lane in self._company:
            self._company[lane] = None  # `entry` is to be asked again
        if first in self._aside:
            return None
        lane.line.drop(first)
        if first.kv_tokens <= self._kv_tokens and first.kv_tokens <= self._largest:
            return first
        self._set_aside(first)
        return None

    def _set_aside(self, entry: Entry) -> None:
        self._aside.append(entry)
        if entry.kv_tokens <= self._largest:
            self._passed.append((entry, self._picked))
            self._may_start = min(self._may_start, self._max_passes - entry.passes)
