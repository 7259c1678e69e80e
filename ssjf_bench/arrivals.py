"""When requests arrive: Poisson, gamma with a chosen burstiness, or as in a trace.

Owns the shapes and their scaling: whatever was drawn or recorded has exactly the rate asked
for over its window, and one seed gives the same pattern at every rate. Knows no prompts.
"""

from __future__ import annotations

import math
import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ssjf_bench.trace import Trace, read_trace, spread_coarse_steps

POISSON = "poisson"
GAMMA = "gamma:"


@dataclass(frozen=True, slots=True)
class Renewal:
    """Independent gaps with a gamma distribution. Raises ValueError where cv is not positive."""

    cv: float = 1.0
    """Coefficient of variation of the gaps: 1 is a Poisson process, more is burstier."""

    def __post_init__(self) -> None:
        if not 0 < self.cv < math.inf:
            raise ValueError("arrivals: the cv must be positive and finite")


Arrivals = Renewal | Trace


def parse(text: str) -> Arrivals:
    """`poisson`, `gamma:CV` or the path of a trace. Raises ValueError, TraceError."""
    if text == POISSON:
        return Renewal()
    if text.startswith(GAMMA):
        number = text.removeprefix(GAMMA)
        try:
            return Renewal(float(number))
        except ValueError:
            raise ValueError(f"arrivals {text!r}: gamma:CV wants a positive number") from None
    path = Path(text)
    if not path.exists():
        raise ValueError(f"arrivals {text!r}: neither poisson, gamma:CV nor a file")
    return read_trace(path)


def times_s(arrivals: Arrivals, jobs: int, rate_per_s: float, seed: int) -> tuple[float, ...]:
    """The first `jobs` arrivals, from 0, scaled to a mean of `rate_per_s`.

    Raises ValueError for fewer than two jobs, more than a trace has, or no rate.
    """
    if jobs < 2 or not 0 < rate_per_s < math.inf:
        raise ValueError("arrivals: at least two jobs and a positive rate wanted")
    if isinstance(arrivals, Renewal):
        raw_s = _renewal(arrivals, jobs, seed)
    else:
        raw_s = _replayed(arrivals, jobs, seed)
    return tuple(time_s / rate_per_s for time_s in _at_one_per_s(raw_s))


def _renewal(arrivals: Renewal, jobs: int, seed: int) -> list[float]:
    draw = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    shape = arrivals.cv**-2
    now_s, times = 0.0, []
    for _ in range(jobs):
        times.append(now_s)
        now_s += draw.gammavariate(shape, 1 / shape)
    return times


def _replayed(trace: Trace, jobs: int, seed: int) -> list[float]:
    if jobs > len(trace.arrivals_s):
        raise ValueError(f"arrivals: {jobs} jobs, but the trace has {len(trace.arrivals_s)}")
    return spread_coarse_steps(trace.arrivals_s, seed)[:jobs]


def _at_one_per_s(times: Sequence[float]) -> list[float]:
    first_s, last_s = times[0], times[-1]
    if first_s == last_s:
        raise ValueError("arrivals: all of them at once, which has no rate")
    stretch = len(times) / (last_s - first_s)
    return [(time_s - first_s) * stretch for time_s in times]
