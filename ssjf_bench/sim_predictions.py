"""Predicted lengths for a simulation: the true ones times log-normal noise.

Owns the noise and its calibration to a rank correlation. A trained predictor's answers
come from elsewhere in the same form. Knows no scheduler: what it makes is all of the true
lengths that a policy may ever see.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import stats

P90_NORMAL: Final = 1.2815515655446004
"""90th percentile of the standard normal distribution."""
MAX_SIGMA: Final = 16.0
BISECTIONS: Final = 40
TAU_TOLERANCE: Final = 1e-4


@dataclass(frozen=True, slots=True)
class Predictions:
    """What the scheduler is told of each request, in the workload's order."""

    tokens: tuple[float, ...]
    """Expected output tokens, positive."""
    p90_tokens: tuple[float, ...] | None
    """Tokens that nine in ten stay under; None where the predictor does not say."""
    origin: str
    """Where they come from, for reports."""


def noisy(actual: Sequence[int], sigma: float, seed: int) -> Predictions:
    """Each length times exp(sigma · z), z standard normal; sigma 0 gives the truth."""
    draws = np.random.default_rng(seed).standard_normal(len(actual))
    tokens = np.asarray(actual, dtype=np.float64) * np.exp(sigma * draws)
    p90 = tokens * math.exp(P90_NORMAL * sigma)
    return Predictions(
        tuple(tokens.tolist()), tuple(p90.tolist()), f"log-normal noise, sigma {sigma:.4f}"
    )


def sigma_for_tau(actual: Sequence[int], tau: float, seed: int) -> float:
    """The sigma with which `noisy` of the same seed has Kendall's tau-b of `tau`.

    Found by bisection on the fixed draws, of which tau-b is all but monotone. Raises
    ValueError where no sigma comes within a hundredth: tau out of (0, 1], above what ties
    in the lengths allow, or too few jobs.
    """
    if not 0 < tau <= 1:
        raise ValueError("noise: tau must be in (0, 1]")
    if tau == 1:
        return 0.0
    low, high = 0.0, MAX_SIGMA
    for _ in range(BISECTIONS):
        sigma = (low + high) / 2
        found = kendall_tau_b(noisy(actual, sigma, seed).tokens, actual)
        if abs(found - tau) <= TAU_TOLERANCE:
            return sigma
        low, high = (sigma, high) if found > tau else (low, sigma)
    if not abs(found - tau) <= 0.01:  # nan, too
        raise ValueError(f"noise: tau-b {tau} cannot be had with these lengths ({found:.3f})")
    return sigma


def kendall_tau_b(predicted: Sequence[float] | NDArray[np.float64], actual: Sequence[int]) -> float:
    """Kendall's tau-b; nan where either side is all ties."""
    return float(stats.kendalltau(predicted, actual, variant="b").statistic)
