"""Log-spaced bins of output lengths: from tokens to bins, and from a distribution back.

Owns the arithmetic between a length distribution and what the service answers:
expected tokens, quantiles, rank score. Pure numpy; shared by training's evaluation and
by serving, so a figure in the model card is computed as the service computes it.

    tokens   1      e1      e2            e[n-1] = top      beyond
             |--0---|---1---|--- ... ----|------ n-1 ------>   the last bin is open
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class LengthBins:
    """`count` bins: `count - 1` log-spaced from 1 to `top_tokens`, and an open one above."""

    count: int
    top_tokens: int
    """Where the open bin begins."""
    beyond_tokens: int
    """What an answer in the open bin counts."""

    def __post_init__(self) -> None:
        if self.count < 3:
            raise ValueError("count: at least 3 bins")
        if not 2 <= self.top_tokens <= self.beyond_tokens:
            raise ValueError("top_tokens: at least 2 and at most beyond_tokens")

    @cached_property
    def edges(self) -> Floats:
        """Lower edges of all bins, (count,), in tokens; the first is 1. Read-only."""
        return _fixed(np.geomspace(1.0, self.top_tokens, self.count))

    @cached_property
    def values(self) -> Floats:
        """Tokens that each bin stands for, (count,): geometric middle, or `beyond_tokens`."""
        middles = np.sqrt(self.edges[:-1] * self.edges[1:])
        return _fixed(np.append(middles, float(self.beyond_tokens)))

    @cached_property
    def log_points(self) -> Floats:
        """Logarithms of the edges and of `beyond_tokens`, (count + 1,). Read-only."""
        return _fixed(np.log(np.append(self.edges, self.beyond_tokens)))

    @cached_property
    def _slope(self) -> Floats:
        return _fixed(np.linspace(0.0, 1e-9, self.count + 1))

    def position(self, tokens: Floats) -> Floats:
        """Fractional bin numbers: 0.5 is the middle of bin 0. Lengths below 1 count as 1."""
        width = np.log(self.top_tokens) / (self.count - 1)
        positions = np.log(np.maximum(tokens, 1.0)) / width
        return np.asarray(np.minimum(positions, self.count - 0.5))

    def index(self, tokens: Floats) -> NDArray[np.int64]:
        """The bin of each length."""
        return self.position(tokens).astype(np.int64)

    def soft_labels(self, tokens: Floats, width_bins: float) -> Floats:
        """(n,) lengths to (n, count): a Gaussian of `width_bins` around each, summing to 1."""
        centres = np.arange(self.count) + 0.5
        distance = (centres - self.position(tokens)[:, None]) / width_bins
        weights = np.exp(-0.5 * distance**2)
        return np.asarray(weights / weights.sum(axis=1, keepdims=True))

    def expected(self, probabilities: Floats, limits: Floats) -> Floats:
        """Mean of min(length, limit): (n, count) and (n,) to (n,); at least 1."""
        clipped = np.minimum(self.values, limits[:, None])
        return np.asarray(np.maximum((probabilities * clipped).sum(axis=1), 1.0))

    def quantiles(self, probabilities: Floats, at: Sequence[float], limits: Floats) -> Floats:
        """(n, count) to (n, len(at)): log-linear inside a bin, clipped to 1 and the limits."""
        below = np.zeros((len(probabilities), self.count + 1))
        np.cumsum(probabilities, axis=1, out=below[:, 1:])
        below /= below[:, -1:]
        # Strictly rising, so that a bin without mass does not make the inverse ambiguous.
        below += self._slope
        # A call a row: for the few rows of a batch less than indexing all of them at once.
        logarithms = [np.interp(at, row, self.log_points) for row in below]
        found = np.exp(np.reshape(logarithms, (len(below), len(at))))
        return np.asarray(np.minimum(np.maximum(found, 1.0), limits[:, None]))

    def rank_values(self, tokens: Floats) -> Floats:
        """Share of `tokens` below each bin, ties half, (count,): what `rank_score` averages."""
        shares = np.bincount(self.index(tokens), minlength=self.count) / max(len(tokens), 1)
        return np.asarray(np.cumsum(shares) - shares / 2)


def softmax(logits: NDArray[np.floating]) -> Floats:
    """Rows of logits to rows of probabilities, in float64."""
    shifted = np.asarray(logits, dtype=np.float64)
    shifted = np.exp(shifted - shifted.max(axis=1, keepdims=True))
    return np.asarray(shifted / shifted.sum(axis=1, keepdims=True))


def _fixed(values: Floats) -> Floats:
    values.setflags(write=False)
    return values
