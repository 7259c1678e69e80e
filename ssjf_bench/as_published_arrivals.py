"""When the jobs of the SSJF paper's experiments arrive.

Owns the three kinds of arrivals of its evaluation and the values that each is run at: rates
for Poisson, coefficients of variation for gamma, scales for a trace (auto_eval.py; of ten
values each, its plots and means take every second). Called by `as_published_run`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from ssjf_bench.as_published import Rules
from ssjf_bench.trace import Trace

GAMMA_RATE_PER_S: Final = 0.03
"""Of the runs whose coefficient of variation varies (auto_eval.py, experiment 4)."""
POISSON_RATES_PER_S: Final = (1.0, 3.0, 5.0, 7.0, 9.0)
GAMMA_CVS: Final = (1.0, 2.0, 3.0, 4.0, 5.0)
TRACE_SCALES: Final = (0.5, 2.0, 10.0, 50.0, 200.0)
Times = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Poisson:
    """A Poisson process; the value is its rate in jobs a second."""

    name: str = "poisson"
    values: tuple[float, ...] = POISSON_RATES_PER_S

    def times_s(self, value: float, rules: Rules, random: np.random.Generator) -> Times:
        """Arrivals of `rules.jobs` jobs, never falling."""
        if not rules.arrivals_as_published:
            return np.cumsum(random.exponential(1 / value, rules.jobs))
        seconds: list[int] = []
        second = 0
        while len(seconds) < rules.jobs:
            seconds += [second] * int(random.poisson(value))
            second += 1
        return np.array(seconds[: rules.jobs], dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Gamma:
    """Gaps with a gamma distribution; the value is their coefficient of variation."""

    name: str = "gamma"
    values: tuple[float, ...] = GAMMA_CVS

    def times_s(self, value: float, rules: Rules, random: np.random.Generator) -> Times:
        """Arrivals of `rules.jobs` jobs, never falling."""
        gaps_s = random.gamma(value**-2, value**2 / GAMMA_RATE_PER_S, rules.jobs)
        return np.cumsum(np.sort(gaps_s) if rules.arrivals_as_published else gaps_s)


@dataclass(frozen=True, slots=True)
class Replayed:
    """A stretch of a trace from a random place on; the value is how much faster it is played."""

    name: str
    trace: Trace
    values: tuple[float, ...] = TRACE_SCALES

    def times_s(self, value: float, rules: Rules, random: np.random.Generator) -> Times:
        """Arrivals of `rules.jobs` jobs, from 0, never falling.

        Raises ValueError where the trace has too few.
        """
        recorded = self.trace.arrivals_s
        if rules.jobs > len(recorded):
            raise ValueError(f"{self.name}: {rules.jobs} jobs, but the trace has {len(recorded)}")
        first = int(random.integers(len(recorded) - rules.jobs + 1))
        times_s = np.array(recorded[first : first + rules.jobs]) - recorded[first]
        times_s *= (1e3 if rules.milliseconds_as_seconds else 1.0) / value
        return np.round(times_s, 1) if rules.arrivals_as_published else times_s


Kind = Poisson | Gamma | Replayed


def at_rate(times_s: Times, rate_per_s: float) -> Times:
    """The arrivals from 0 on, stretched to a mean of `rate_per_s`. Raises ValueError for none."""
    length_s = times_s[-1] - times_s[0]
    if not (length_s > 0 and rate_per_s > 0):
        raise ValueError("arrivals: all of them at once, which has no rate")
    return np.asarray((times_s - times_s[0]) * (len(times_s) / rate_per_s / length_s))
