"""What the scheduler knows of a request.

Never its true length: that stays with the client and the engine. Made by the service
and by the simulator; every module of the core reads it.
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

    Times are seconds of the caller's monotonic clock. Raises ValueError for values that
    cannot be scheduled.
    """

    job_id: int
    """Unique among the jobs that the core holds."""
    request_id: str
    """The client's name for it."""
    arrival_s: float
    """When it came; the queue time-out counts from here."""
    prompt_tokens: int
    """Length of the prompt, at least 1."""
    max_tokens: int
    """The longest answer that it may get, at least 1."""
    predicted_tokens: float
    """Output tokens that it is queued under, positive."""
    priority: Priority = Priority.STANDARD
    """Its class."""
    deadline_s: float = float("inf")
    """When its answer is worth nothing any more; infinite where there is none."""
    tenant: str = ""
    """Who sent it; fair shares and limits are a tenant's."""
    cached_prompt_tokens: int = 0
    """Prompt tokens that an engine has in its cache; they cost no prefill."""
    predicted_p90_tokens: float | None = None
    """Output tokens that nine in ten such jobs stay under; None where unknown."""
    reserved_kv_tokens: int | None = None
    """KV tokens to reserve at an engine; None reserves prompt + max_tokens, which never
    has to be preempted."""

    def __post_init__(self) -> None:
        if self.prompt_tokens < 1 or self.max_tokens < 1:
            raise ValueError(f"job {self.job_id}: prompt_tokens and max_tokens must be at least 1")
        if not self.predicted_tokens > 0:
            raise ValueError(f"job {self.job_id}: predicted_tokens must be positive")
        if not 0 <= self.cached_prompt_tokens <= self.prompt_tokens:
            raise ValueError(f"job {self.job_id}: cached_prompt_tokens must be within the prompt")
        if self.reserved_kv_tokens is not None and self.reserved_kv_tokens < 1:
            raise ValueError(f"job {self.job_id}: reserved_kv_tokens must be at least 1")

    @property
    def kv_tokens(self) -> int:
        """KV tokens that it reserves at its engine."""
        if self.reserved_kv_tokens is not None:
            return self.reserved_kv_tokens
        return self.prompt_tokens + self.max_tokens

    @property
    def uncached_prompt_tokens(self) -> int:
        """Prompt tokens that need prefill."""
        return self.prompt_tokens - self.cached_prompt_tokens

    @property
    def expected_output_tokens(self) -> float:
        """The prediction, clipped to what the request allows."""
        return min(self.predicted_tokens, float(self.max_tokens))
