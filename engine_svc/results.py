"""What the sampler gave for the rows of one step, on the host.

Pure. Made by `runner` when a step has run, read by `commit`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from engine_svc.messages import TokenLogprobs
from engine_svc.progress import Tokens

NUMERIC_FAULT: Final = -1
"""The token of a row whose logits were not finite."""


@dataclass(frozen=True, slots=True)
class Results:
    """One row for each sequence that was sampled."""

    tokens: Tokens
    """int64 [rows], NUMERIC_FAULT where there is none."""
    logprobs: Mapping[int, TokenLogprobs] | None = None
    """By row, of those that asked for them."""
