"""Micro-batching: prompts of concurrent calls are run together.

Owns when a batch starts (enough prompts, or the oldest has waited long enough), what it
holds, the bound on what may wait, and the groups of similar length in which a batch is
run. Pure: time comes in as an argument, and what runs a batch is elsewhere. `pipeline`
drives it on the event loop.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

BUCKETS_TOKENS = (16, 32, 64, 128, 256, 512)
"""Lengths that prompts are padded to: few shapes, and at most half of a row is padding."""

T = TypeVar("T")


class BatcherFull(Exception):
    """No room for these prompts; none of them was taken."""

    def __init__(self, waiting: int, limit: int) -> None:
        super().__init__(f"{waiting} prompts wait, the limit is {limit}")
        self.waiting = waiting
        self.limit = limit


@dataclass(frozen=True, slots=True)
class BatchLimits:
    """When a batch starts, and how many prompts may wait."""

    max_batch: int
    """Prompts run together at most."""
    max_wait_s: float
    """Longest that a prompt waits for company."""
    max_queue_items: int
    """Prompts admitted and not yet running, at most."""


class MicroBatcher(Generic[T]):
    """A bounded first-in first-out queue that gives itself up in batches.

    A prompt is admitted first (it counts against the bound while it is tokenised), then
    queued; or it is withdrawn.
    """

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._admitted = 0
        self._queue: deque[tuple[float, T]] = deque()

    @property
    def waiting(self) -> int:
        """Prompts admitted and not yet running."""
        return self._admitted + len(self._queue)

    def admit(self, count: int) -> None:
        """Takes room for `count` prompts, all or none. Raises BatcherFull."""
        if self.waiting + count > self.limits.max_queue_items:
            raise BatcherFull(self.waiting, self.limits.max_queue_items)
        self._admitted += count

    def withdraw(self, count: int) -> None:
        """Gives back the room of prompts that were admitted and never queued."""
        self._admitted -= count

    def put(self, entries: Sequence[T], now: float) -> None:
        """Queues prompts that were admitted."""
        self._admitted -= len(entries)
        self._queue.extend((now, entry) for entry in entries)

    def due(self) -> float | None:
        """When the next batch should start: -inf for at once, None while nothing waits."""
        if not self._queue:
            return None
        if len(self._queue) >= self.limits.max_batch:
            return float("-inf")
        return self._queue[0][0] + self.limits.max_wait_s

    def take(self, now: float, is_wanted: Callable[[T], bool]) -> list[T]:
        """The next batch, oldest first, once it is due; what nobody waits for is dropped."""
        due = self.due()
        batch: list[T] = []
        if due is None or due > now:
            return batch
        while self._queue and len(batch) < self.limits.max_batch:
            _, entry = self._queue.popleft()
            if is_wanted(entry):
                batch.append(entry)
        return batch


@dataclass(frozen=True, slots=True)
class Group:
    """Rows of a batch that run as one tensor."""

    rows: tuple[int, ...]
    padded_tokens: int


def group_by_length(lengths: Sequence[int]) -> list[Group]:
    """Rows of a batch by the bucket that their length falls in, shortest first."""
    by_bucket: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_bucket.setdefault(bucket_of(length), []).append(row)
    return [Group(tuple(rows), bucket) for bucket, rows in sorted(by_bucket.items())]


def bucket_of(length: int) -> int:
    """The smallest bucket that holds `length` tokens; `length` itself above the largest."""
    return next((bucket for bucket in BUCKETS_TOKENS if length <= bucket), length)
