"""What the scheduler knows of a request.

Never its true length: that stays with the client and the engine.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class Priority(IntEnum):
    """Classes above the predicted length; smaller goes first."""

    URGENT = 0
    STANDARD = 1
    BATCH = 2


@dataclass(frozen=True, slots=True)
class Job:
    """One request, as the scheduler sees it.

    Times are seconds of the caller's monotonic clock. `predicted_tokens` is the
    output length it is queued under; `deadline_s` is infinite where there is none.
    Raises ValueError for values that cannot be scheduled.
    """

    job_id: int
    request_id: str
    arrival_s: float
    prompt_tokens: int
    max_tokens: int
    predicted_tokens: float
    priority: Priority = Priority.STANDARD
    deadline_s: float = float("inf")

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.max_tokens < 1:
            raise ValueError(f"job {self.job_id}: prompt_tokens and max_tokens must be at least 1")
        if not self.predicted_tokens > 0:
            raise ValueError(f"job {self.job_id}: predicted_tokens must be positive")

    @property
    def kv_tokens(self) -> int:
        """KV tokens to reserve so that the job never has to be preempted."""
        return self.prompt_tokens + self.max_tokens

    @property
    def expected_output_tokens(self) -> float:
        """The prediction, clipped to what the request allows."""
        return min(self.predicted_tokens, float(self.max_tokens))
