"""What predictions have been worth: expected output tokens, given what was predicted.

Owns the record of predicted against actual tokens of the jobs that ended, by predicted
length, half an octave a bin. Where predictions are noisy, the long ones among them are too
long on average: a queue that keeps them back would be taken for more work than it is.
Knows no job and no order. Called by policies that count work.
"""

from __future__ import annotations

from math import log2
from typing import Final

BINS_AN_OCTAVE: Final = 2
BINS: Final = 64
PRIOR_JOBS: Final = 4.0
"""A bin counts as if so many of its jobs had ended at the ratio of all bins together."""
PRIOR_TOKENS: Final = 500.0
"""All bins count as if so many predicted tokens had been exact."""
WINDOW_JOBS: Final = 2000.0
"""A bin's record is halved when it has so many jobs: what is old counts less and less."""


class Calibration:
    """Sums of actual and predicted tokens. One for all lanes of a policy."""

    __slots__ = ("_actual", "_all_actual", "_all_predicted", "_predicted")

    def __init__(self) -> None:
        self._actual = [0.0] * BINS
        self._predicted = [0.0] * BINS
        self._all_actual = PRIOR_TOKENS
        self._all_predicted = PRIOR_TOKENS

    def expected(self, predicted_tokens: float) -> float:
        """Mean output tokens of jobs that were predicted about so many."""
        number = _bin(predicted_tokens)
        prior = PRIOR_JOBS * predicted_tokens
        ratio = self._all_actual / self._all_predicted
        seen = self._predicted[number]
        return predicted_tokens * (self._actual[number] + ratio * prior) / (seen + prior)

    def learn(self, predicted_tokens: float, actual_tokens: int) -> None:
        """A job has ended."""
        number = _bin(predicted_tokens)
        if self._predicted[number] > WINDOW_JOBS * predicted_tokens:
            self._forget(number)
        self._actual[number] += actual_tokens
        self._predicted[number] += predicted_tokens
        self._all_actual += actual_tokens
        self._all_predicted += predicted_tokens

    def _forget(self, number: int) -> None:
        for sums in (self._actual, self._predicted):
            sums[number] /= 2
        self._all_actual = PRIOR_TOKENS + sum(self._actual)
        self._all_predicted = PRIOR_TOKENS + sum(self._predicted)


def _bin(predicted_tokens: float) -> int:
    number = int(BINS_AN_OCTAVE * log2(predicted_tokens))
    return number if 0 <= number < BINS else (0 if number < 0 else BINS - 1)
