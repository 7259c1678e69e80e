"""How many jobs go to an engine at once: none, dynamic, continuous (SSJF paper, section 4).

Owns the modes and their rule, the same under every policy. Called by the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from heapq import heappop, heappush
from math import inf

from gateway_svc.scheduling.credits import EngineCredits
from gateway_svc.scheduling.entry import Entry, State


class Mode(Enum):
    """Batching mode."""

    NONE = "none"
    """One job at a time."""
    DYNAMIC = "dynamic"
    """A batch starts when it is full or its first job has waited long enough, and runs to
    completion: places that become free stay empty until its last job ends."""
    CONTINUOUS = "continuous"
    """Every place is filled again as soon as it is free."""


@dataclass(frozen=True, slots=True)
class Batching:
    """The rule for every engine. Raises ValueError for values out of range."""

    mode: Mode = Mode.CONTINUOUS
    """Batching mode."""
    max_batch: int = 256
    """Jobs that one engine may run at once; 1 where the mode is none."""
    max_wait_s: float = 0.0
    """Dynamic: how long the first job of a batch waits for company at most."""

    def __post_init__(self) -> None:
        if self.max_batch < 1 or not 0 <= self.max_wait_s < float("inf"):
            raise ValueError("batching: max_batch >= 1 and a finite max_wait_s >= 0 wanted")

    @property
    def places(self) -> int:
        """Jobs that one engine may run at once."""
        return 1 if self.mode is Mode.NONE else self.max_batch


class Company:
    """Who waits for company, and for how long; only dynamic batching asks."""

    __slots__ = ("_by_arrival", "_dynamic", "_rule")

    def __init__(self, rule: Batching) -> None:
        self._rule = rule
        self._dynamic = rule.mode is Mode.DYNAMIC
        # By number of arrival; those that wait no more are dropped when they come up.
        self._by_arrival: list[tuple[int, Entry]] = []

    @property
    def whole_batches(self) -> bool:
        """Whether a batch runs to completion, so that it lasts as long as its longest job."""
        return self._dynamic

    def wait(self, entry: Entry) -> None:
        """A job waits from now on, or again."""
        if self._dynamic:
            heappush(self._by_arrival, (entry.number, entry))

    def places(self, engine: EngineCredits, queued: int, now_s: float) -> int:
        """How many of `queued` waiting jobs may start on `engine` now."""
        rule = self._rule
        places = min(rule.places - len(engine.running), engine.sequences)
        if not self._dynamic or places <= 0:
            return places
        if engine.running:
            return 0
        return places if queued >= places or self._patience_s() <= now_s else 0

    def patience_ends_s(self, now_s: float) -> float:
        """When a batch that is not full will start; infinite where none waits or it could now."""
        if not self._dynamic:
            return inf
        ends_s = self._patience_s()
        return ends_s if ends_s > now_s else inf

    def _patience_s(self) -> float:
        waiting = self._by_arrival
        while waiting and waiting[0][1].state is not State.WAITING:
            heappop(waiting)
        return waiting[0][1].job.arrival_s + self._rule.max_wait_s if waiting else inf
