"""How long an engine's step takes: the one model of an engine that a simulation has.

A decode step of n sequences takes base + n · per_sequence + log2 n · per_doubling, and more for
every token that they look back on; prompts add their prefill to the step in which they start.
Owns the numbers and the capacity that follows from them; knows no queue. The defaults are an 8 B
model in bf16 on one H100; `step_fit` finds them in live runs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class StepTime:
    """Milliseconds a step. Raises ValueError where a time is negative, or a step takes none."""

    base_ms: float = 6.5
    """A step without any sequence: reading the weights."""
    per_sequence_ms: float = 0.068
    """What each running sequence adds."""
    prefill_token_ms: float = 0.0
    """What each token of a prompt adds to the step in which its job starts."""
    prefill_ms: float = 0.0
    """What a step takes longer in which any prompt is read, however many and long."""
    context_token_ms: float = 0.0
    """What each token adds that a running sequence has read or generated before."""
    per_doubling_ms: float = 0.0
    """What a step of twice as many sequences takes longer, besides `per_sequence_ms`: beside a
    small model's weights the first few sequences cost more than the later ones."""

    def __post_init__(self) -> None:
        times = (
            *(self.base_ms, self.per_sequence_ms, self.prefill_token_ms, self.prefill_ms),
            *(self.context_token_ms, self.per_doubling_ms),
        )
        if not all(0 <= time < float("inf") for time in times) or self.decode_s(1) <= 0:
            raise ValueError("step time: finite times of at least 0 and a step above 0 ms wanted")

    def decode_s(self, batch: int, context_tokens: float = 0.0) -> float:
        """Seconds that a step of `batch` sequences takes, with so much context in all."""
        doublings = math.log2(max(batch, 1))
        sequences_ms = self.per_sequence_ms * batch + self.per_doubling_ms * doublings
        return (self.base_ms + sequences_ms + self.context_token_ms * context_tokens) * 1e-3

    def prefill_s(self, prompt_tokens: float) -> float:
        """Seconds that the tokens of prompts add to their step; 0 without any."""
        if not prompt_tokens:
            return 0.0
        return (self.prefill_ms + self.prefill_token_ms * prompt_tokens) * 1e-3

    def capacity_requests_per_s(
        self, batch: int, mean_output_tokens: float, mean_prompt_tokens: float = 0.0
    ) -> float:
        """What a full engine finishes: `batch` answers for each mean length of full steps.

        Each of those answers also holds the batch up for its prefill, in a step of its own.
        Context counts as if all answers were of one length.
        """
        context_tokens = batch * (mean_prompt_tokens + mean_output_tokens / 2)
        decode_s = self.decode_s(batch, context_tokens) * mean_output_tokens
        return batch / (decode_s + batch * self.prefill_s(mean_prompt_tokens))

    def whole_batches_requests_per_s(self, batch: int, output_tokens: Sequence[int]) -> float:
        """What an engine finishes that takes these answers `batch` at a time, in their order.

        A batch runs until its longest answer has ended, ever fewer sequences a step; a last
        one that is not full does not count, unless there is no other. Without prefill.
        """
        full = max(batch, len(output_tokens) - len(output_tokens) % batch)
        taken = output_tokens[:full]
        batches = [sorted(taken[first : first + batch]) for first in range(0, len(taken), batch)]
        return len(taken) / sum(self._whole_s(each) for each in batches)

    def _whole_s(self, rising_tokens: Sequence[int]) -> float:
        running, done, seconds = len(rising_tokens), 0, 0.0
        for ended, tokens in enumerate(rising_tokens):
            seconds += (tokens - done) * self.decode_s(running - ended)
            done = tokens
        return seconds
