"""Micro-batching: prompts of concurrent calls are run together.

Owns when a batch starts (at once while nothing runs; else with enough prompts, or when the
oldest has waited long enough), what it holds, the bound on what may wait, and the groups
of similar length in which a batch is run. Pure: time comes in as an argument, and what
runs a batch is elsewhere. `pipeline` drives it on the event loop.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
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
    """Longest that a prompt waits for company while another batch runs."""
    max_queue_items: int
    """Prompts that wait for a batch, at most."""


class MicroBatcher(Generic[T]):
    """A bounded first-in first-out queue that gives itself up in batches."""

    def __init__(self, limits: BatchLimits) -> None:
        self.limits = limits
        self._queue: deque[tuple[float, T]] = deque()

    @property
    def waiting(self) -> int:
        """Prompts that are in no batch yet."""
        return len(self._queue)

    def put(self, entries: Sequence[T], now: float) -> None:
        """Queues prompts, all or none. Raises BatcherFull."""
        if self.waiting + len(entries) > self.limits.max_queue_items:
            raise BatcherFull(self.waiting, self.limits.max_queue_items)
        self._queue.extend((now, entry) for entry in entries)

    def due(self, busy: bool) -> float | None:
        """When the next batch should start: -inf for at once, None while nothing waits.

        `busy` says whether a batch runs: an idle model waits for no company.
        """
        if not self._queue:
            return None
        if not busy or len(self._queue) >= self.limits.max_batch:
            return float("-inf")
        return self._queue[0][0] + self.limits.max_wait_s

    def take(self, now: float, busy: bool, is_wanted: Callable[[T], bool]) -> list[T]:
        """The next batch, oldest first, once it is due; what nobody waits for is dropped."""
        due = self.due(busy)
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


def group_by_length(lengths: Sequence[int], run_cost_tokens: int = 0) -> list[Group]:
    """Rows of a batch by the bucket that their length falls in, shortest first.

    A group joins the next longer one where its additional padding, in tokens, costs less than
    a run of its own: `run_cost_tokens`, which is large where a run is mostly launching.
    """
    by_bucket: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        by_bucket.setdefault(bucket_of(length), []).append(row)
    buckets = sorted(by_bucket)
    for bucket, longer in pairwise(buckets):
        if len(by_bucket[bucket]) * (longer - bucket) < run_cost_tokens:
            by_bucket[longer] += by_bucket.pop(bucket)
    return [Group(tuple(rows), bucket) for bucket, rows in sorted(by_bucket.items())]


def bucket_of(length: int) -> int:
    """The smallest bucket that holds `length` tokens; `length` itself above the largest."""
    place = bisect_left(BUCKETS_TOKENS, length)
    return BUCKETS_TOKENS[place] if place < len(BUCKETS_TOKENS) else length
