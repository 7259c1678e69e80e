"""Times of many calls in a few figures.

Pure arithmetic. Called by every benchmark of something that is called again and again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class Latency:
    """A distribution in milliseconds. Percentiles are interpolated linearly."""

    calls: int
    """Calls measured."""
    mean_ms: float
    """Mean."""
    p50_ms: float
    """Median."""
    p90_ms: float
    """90th percentile."""
    p99_ms: float
    """99th percentile."""


def latency(times_s: Sequence[float]) -> Latency:
    """The figures of calls that took so many seconds. Raises ValueError for none."""
    if not times_s:
        raise ValueError("no call ended within the time measured")
    times_ms = np.asarray(times_s) * 1000
    p50_ms, p90_ms, p99_ms = (float(each) for each in np.percentile(times_ms, [50, 90, 99]))
    return Latency(len(times_s), float(times_ms.mean()), p50_ms, p90_ms, p99_ms)
