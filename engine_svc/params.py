"""How one answer is sampled and when it ends, as the engine's own type.

Pure. `translate` fills it from the wire and has checked every range; the sampler and
the sequences only read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """Sampling and stopping parameters with every default filled."""

    max_tokens: int
    """Most tokens of the answer, at least 1."""
    min_tokens: int = 0
    """Tokens before an end-of-sequence token or a stop may end the answer."""
    temperature: float = 0.0
    """Softmax temperature; 0 is greedy."""
    top_p: float = 1.0
    """Probability that the nucleus must reach, in (0, 1]."""
    top_k: int = 0
    """Tokens to keep; 0 keeps all."""
    min_p: float = 0.0
    """Least probability, as a share of the most probable token's."""
    repetition_penalty: float = 1.0
    """Divides positive and multiplies negative logits of tokens seen anywhere."""
    presence_penalty: float = 0.0
    """Subtracted once from the logits of tokens in the answer."""
    frequency_penalty: float = 0.0
    """Subtracted, times their count, from the logits of tokens in the answer."""
    seed: int = 0
    """Seed of the random stream, 64 bits, unsigned."""
    stop: tuple[str, ...] = ()
    """Strings that end the answer and are no part of it."""
    stop_token_ids: frozenset[int] = frozenset()
    """Tokens that end the answer besides the model's own."""
    ignore_eos: bool = False
    """Go on through the model's end-of-sequence tokens."""
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    """Added to the logits of these token ids."""
    logprobs: int | None = None
    """Alternatives to report with each token's log-probability; None reports nothing."""

    @property
    def greedy(self) -> bool:
        """Whether the most probable token is taken; dividing by less would overflow."""
        return self.temperature < 1e-5

    @property
    def filtered(self) -> bool:
        """Whether some tokens are excluded before one is drawn."""
        return self.top_k > 0 or self.top_p < 1.0 or self.min_p > 0.0

    @property
    def penalised(self) -> bool:
        """Whether earlier tokens change the logits of later ones."""
        return (
            self.repetition_penalty != 1.0
            or self.presence_penalty != 0.0
            or self.frequency_penalty != 0.0
        )
