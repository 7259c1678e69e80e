"""Why requests wait, and how long those of each length have waited.

`reasons` puts everything that waits down to one cause each, from counts alone, so that an
operator's metrics cost the same whatever the queue's length. `WaitHistory` keeps the
latest finished requests' waits by output length. Pure; called by the dispatcher.
"""

from __future__ import annotations

import math
from collections import Counter, deque
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum

from gateway_svc.scheduling.batching import Mode
from gateway_svc.scheduling.job import Priority
from gateway_svc.tally import Key, Tally

LENGTH_EDGES = (0, 32, 64, 128, 256, 512, 1024)
"""Where the ranges of output tokens begin that waits are shown by; the last has no end."""
HISTORY = 512
"""Requests that each range remembers."""


class WaitReason(Enum):
    """What a waiting request waits for; the first that holds, in this order."""

    NO_ENGINE = "no_engine"
    TENANT_LIMIT = "tenant_limit"
    GLOBAL_LIMIT = "global_limit"
    CLASS = "class"
    TENANT_SHARE = "tenant_share"
    ORDER = "order"
    KV = "kv"
    PLACE = "place"
    COMPANY = "company"


@dataclass(frozen=True, slots=True)
class Supply:
    """What there is for those who wait."""

    engines: int
    """Engines that are connected."""
    free_sequences: int
    """Places that they have free, together."""
    running: int
    """Requests at them."""
    max_running: int
    """Requests that may be."""
    tenant_max_running: Mapping[str, int]
    """The same of each tenant that has such a limit."""
    mode: Mode
    """Batching mode."""

    def head(self) -> WaitReason:
        """What the request waits for that is next."""
        if not self.free_sequences:
            return WaitReason.PLACE
        return WaitReason.COMPANY if self.mode is Mode.DYNAMIC else WaitReason.KV


def reasons(
    tally: Tally, supply: Supply, next_up: Key | None
) -> Counter[tuple[Priority, WaitReason]]:
    """How many requests of each class wait for what. `next_up`: whose turn it is."""
    found: Counter[tuple[Priority, WaitReason]] = Counter()
    for key, group in tally.groups.items():
        if not group.waiting:
            continue
        reason = blocked(key, tally, supply, next_up)
        found[key[0], reason] += group.waiting
        if reason is WaitReason.ORDER:  # all but the one that is next
            found[key[0], WaitReason.ORDER] -= 1
            found[key[0], supply.head()] += 1
    return +found


def blocked(key: Key, tally: Tally, supply: Supply, next_up: Key | None) -> WaitReason:
    """What a class and tenant waits for; ORDER where it is its turn."""
    priority, tenant = key
    if not supply.engines:
        return WaitReason.NO_ENGINE
    most = supply.tenant_max_running.get(tenant)
    if most is not None and tally.running_of(tenant) >= most:
        return WaitReason.TENANT_LIMIT
    if supply.running >= supply.max_running:
        return WaitReason.GLOBAL_LIMIT
    if next_up is not None and priority > next_up[0]:
        return WaitReason.CLASS
    if next_up is not None and tenant != next_up[1]:
        return WaitReason.TENANT_SHARE
    return WaitReason.ORDER


@dataclass(frozen=True, slots=True)
class Waited:
    """One finished request."""

    waited_s: float
    predicted_tokens: float
    actual_tokens: int


@dataclass(frozen=True, slots=True)
class LengthBucket:
    """The latest finished requests of one range of output tokens; means and a quantile."""

    from_tokens: int
    below_tokens: int
    """0 where there is no upper end."""
    count: int
    mean_wait_s: float
    p90_wait_s: float
    mean_predicted_tokens: float
    mean_actual_tokens: float


class WaitHistory:
    """The latest finished requests, by their output tokens."""

    def __init__(self) -> None:
        self._ranges = tuple(deque[Waited](maxlen=HISTORY) for _ in LENGTH_EDGES)

    def add(self, waited: Waited) -> None:
        """A request has finished."""
        index = sum(waited.actual_tokens >= edge for edge in LENGTH_EDGES) - 1
        self._ranges[index].append(waited)

    def buckets(self) -> list[LengthBucket]:
        """A bucket for each range that has requests."""
        ends = (*LENGTH_EDGES[1:], 0)
        return [
            _bucket(start, end, [*kept])
            for start, end, kept in zip(LENGTH_EDGES, ends, self._ranges, strict=True)
            if kept
        ]


def _bucket(start: int, end: int, kept: list[Waited]) -> LengthBucket:
    waits = sorted(each.waited_s for each in kept)
    count = len(kept)
    return LengthBucket(
        from_tokens=start,
        below_tokens=end,
        count=count,
        mean_wait_s=sum(waits) / count,
        p90_wait_s=waits[math.ceil(0.9 * count) - 1],
        mean_predicted_tokens=sum(each.predicted_tokens for each in kept) / count,
        mean_actual_tokens=sum(each.actual_tokens for each in kept) / count,
    )
