"""The output length expected without a predictor: a running mean by prompt length.

Prompts of similar length (within a factor of two) share a mean, pulled towards a
starting value until enough answers have been seen. Used while the predictor is
late, down or absent; it keeps the queue working, it ranks little.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class _Mean:
    total_tokens: float = 0.0
    weight: float = 0.0


class PromptLengthPrior:
    """Mean output tokens by the prompt's length; forgets slowly."""

    # Answers that the starting value weighs as much as, and the memory's length.
    START_WEIGHT = 8.0
    MEMORY = 512.0

    def __init__(self, start_tokens: float) -> None:
        self._start_tokens = start_tokens
        self._means: dict[int, _Mean] = {}

    def expected_tokens(self, prompt_tokens: int) -> float:
        """Expected output tokens of a prompt of that many tokens."""
        mean = self._means.get(prompt_tokens.bit_length(), _Mean())
        total = self._start_tokens * self.START_WEIGHT + mean.total_tokens
        return total / (self.START_WEIGHT + mean.weight)

    def learn(self, prompt_tokens: int, output_tokens: int) -> None:
        """Takes one finished answer into account."""
        mean = self._means.setdefault(prompt_tokens.bit_length(), _Mean())
        keep = 1.0 - 1.0 / self.MEMORY
        mean.total_tokens = mean.total_tokens * keep + output_tokens
        mean.weight = mean.weight * keep + 1.0
