"""The cases of the engine's benchmark: how many requests, how long, and their prompts.

Plain data, the same for the engine in this process, the engine behind gRPC, and other
libraries. Every prompt is random and 128 tokens long, every answer's length is forced.
Called by `ssjf bench engine` and by what drives an engine for it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np

PROMPT_TOKENS: Final = 128
SEED: Final = 0
FIRST_ID: Final = 256
"""Prompts are drawn from here up: special and byte tokens are below."""


@dataclass(frozen=True, slots=True)
class Case:
    """Requests that all come at once."""

    name: str
    output_tokens: tuple[int, ...]
    """Forced length of each answer, in the order of the requests."""

    @property
    def total_tokens(self) -> int:
        """Tokens of all answers."""
        return sum(self.output_tokens)

    @property
    def steps(self) -> int:
        """Steps that the longest answer takes."""
        return max(self.output_tokens)

    def prompts(self, vocabulary_size: int) -> list[list[int]]:
        """A prompt for each request; no two begin alike."""
        draw = np.random.default_rng([SEED, len(self.output_tokens)])
        size = (len(self.output_tokens), PROMPT_TOKENS)
        found: list[list[int]] = draw.integers(FIRST_ID, vocabulary_size, size).tolist()
        return found


def _alike(requests: int, tokens: int = 64) -> Case:
    return Case(f"batch-{requests}", (tokens,) * requests)


def _mixed(requests: int, longest: int) -> Case:
    drawn = np.random.default_rng(SEED).lognormal(4.8, 0.9, requests)
    return Case(f"mixed-{requests}", tuple(drawn.clip(8, longest).astype(int).tolist()))


CASES: Final[Mapping[str, Case]] = {
    case.name: case
    for case in (
        *(_alike(requests) for requests in (1, 16, 32, 128, 256)),
        _mixed(512, longest=1024),
        _mixed(32, longest=256),
    )
}
DEFAULT_CASES: Final[Mapping[str, tuple[str, ...]]] = {
    "cuda": ("batch-1", "batch-32", "batch-128", "batch-256", "mixed-512"),
    "cpu": ("batch-1", "batch-16", "mixed-32"),
}
"""What is measured on a device unless cases are named."""
MOST_SEQUENCES: Final[Mapping[str, int]] = {"cuda": 256, "cpu": 16}
"""Sequences that run at once."""
