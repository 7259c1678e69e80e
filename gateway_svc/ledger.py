"""Terminal outcomes, and the ledger that counts them.

accepted = finished + cancelled + failed + waiting + running, at all times; a test
and `Dispatcher.check` hold it to that.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class Outcome(Enum):
    """How an accepted request ended; exactly one each."""

    FINISHED = "finished"
    CANCELLED = "cancelled"
    FAILED = "failed"


@dataclass(slots=True)
class Ledger:
    """Counts since the gateway started."""

    accepted: int = 0
    refused: int = 0
    finished: int = 0
    cancelled: int = 0
    failed: int = 0
    predictions_late: int = 0
    predictions_failed: int = 0
    repriced: int = 0
    predictions_skipped: int = 0

    def end(self, outcome: Outcome) -> None:
        """Counts one accepted request's end."""
        if outcome is Outcome.FINISHED:
            self.finished += 1
        elif outcome is Outcome.CANCELLED:
            self.cancelled += 1
        else:
            self.failed += 1

    @property
    def open(self) -> int:
        """Accepted requests that have not ended."""
        return self.accepted - self.finished - self.cancelled - self.failed
