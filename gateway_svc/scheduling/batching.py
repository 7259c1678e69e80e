"""How many jobs go to an engine at once: none, dynamic, continuous (SSJF paper, section 4).

Owns the modes and their rule, the same under every policy. Called by the core.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


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
