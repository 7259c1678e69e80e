"""A percentile of the latest values, kept up to date.

Owns a window of values, sorted and in order of arrival. Knows nothing of what they are.
Called by policies that aim at a tail.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque
from math import inf
from typing import Final

WINDOW: Final = 10_000
"""Values by default: the percentile of 99 rests on a hundred of them."""


class Percentile:
    """`value`: what `share` of the latest `window` values are below; infinite before there are
    `at_least`. Adding one takes O(log n), and moves of memory that are far quicker."""

    __slots__ = ("_at_least", "_latest", "_share", "_sorted", "_window", "value")

    def __init__(self, share: float, at_least: int = 1, window: int = WINDOW) -> None:
        self._share = share
        self._at_least = at_least
        self._window = window
        self._sorted: list[float] = []
        self._latest: deque[float] = deque()
        self.value = inf

    def observe(self, value: float) -> None:
        """Adds a value, and forgets the oldest of a full window."""
        ordered, latest = self._sorted, self._latest
        insort(ordered, value)
        latest.append(value)
        if len(latest) > self._window:
            del ordered[bisect_left(ordered, latest.popleft())]
        if len(ordered) >= self._at_least:
            self.value = ordered[int(self._share * len(ordered))]
