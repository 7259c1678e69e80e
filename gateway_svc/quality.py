"""How well predictions order requests, lately; and when to stop believing them.

Over a sliding window of finished requests: Kendall's tau-b of predicted against actual
tokens (kept up to date in O(window) a request), their ratio, and how many stayed below
the predicted 90th percentile. `Trust` says, with hysteresis, whether the order should
rest on predictions. Pure; called by the dispatcher at every end.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass

MIN_COUNT = 32
"""Requests below which tau-b says nothing."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One finished answer: what was foretold, what came true."""

    predicted_tokens: float
    actual_tokens: int
    predicted_p90_tokens: float | None = None


class PredictionWindow:
    """The latest `size` outcomes and what they say."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._outcomes: deque[Outcome] = deque()
        # Sums over all pairs: concordant minus discordant, ties in either.
        self._concordance = 0
        self._predicted_ties = 0
        self._actual_ties = 0
        self._predicted = 0.0
        self._actual = 0
        self._with_p90 = 0
        self._below_p90 = 0

    @property
    def count(self) -> int:
        """Outcomes in the window."""
        return len(self._outcomes)

    def add(self, outcome: Outcome) -> None:
        """Takes an outcome in; the oldest goes where the window is full."""
        if len(self._outcomes) == self._size:
            self._weigh(self._outcomes.popleft(), -1)
        self._weigh(outcome, 1)
        self._outcomes.append(outcome)

    @property
    def tau_b(self) -> float | None:
        """Kendall's tau-b; None below MIN_COUNT, and where either side is all equal."""
        pairs = len(self._outcomes) * (len(self._outcomes) - 1) // 2
        untied = (pairs - self._predicted_ties) * (pairs - self._actual_ties)
        if len(self._outcomes) < MIN_COUNT or untied <= 0:
            return None
        return self._concordance / math.sqrt(untied)

    @property
    def predicted_to_actual(self) -> float | None:
        """Sum of predicted over sum of actual tokens; None without any."""
        return self._predicted / self._actual if self._actual else None

    @property
    def p90_coverage(self) -> float | None:
        """Share that stayed within the predicted 90th percentile; None where none had one."""
        return self._below_p90 / self._with_p90 if self._with_p90 else None

    def _weigh(self, outcome: Outcome, sign: int) -> None:
        """Adds (or with -1 takes away) an outcome against all others of the window."""
        predicted, actual = outcome.predicted_tokens, outcome.actual_tokens
        for other in self._outcomes:
            by_prediction = _sign(other.predicted_tokens - predicted)
            by_truth = _sign(other.actual_tokens - actual)
            self._concordance += sign * by_prediction * by_truth
            self._predicted_ties += sign * (not by_prediction)
            self._actual_ties += sign * (not by_truth)
        self._predicted += sign * predicted
        self._actual += sign * actual
        if outcome.predicted_p90_tokens is not None:
            self._with_p90 += sign
            self._below_p90 += sign * (actual <= outcome.predicted_p90_tokens)


@dataclass(slots=True)
class Trust:
    """Whether predictions may order the queue.

    Lost when tau-b falls below `lowest`, regained when it is above by `margin`: an order
    that changes to and fro is worse than either. `lowest` None trusts always.
    """

    lowest: float | None
    margin: float = 0.05
    lost: bool = False

    def judge(self, tau_b: float | None) -> bool:
        """Takes the latest tau-b into account; True where the verdict has changed."""
        if self.lowest is None or tau_b is None:
            return False
        before = self.lost
        self.lost = tau_b < (self.lowest + self.margin if self.lost else self.lowest)
        return self.lost != before


def _sign(difference: float) -> int:
    return (difference > 0) - (difference < 0)
