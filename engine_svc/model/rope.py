"""Rotary position embeddings: the table of angles, and its application.

Source: RoFormer (Su et al. 2021), section 3.2, in the half-split layout that Hugging
Face models use; the `llama3` scaling is that of Llama 3.1's reference code.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from engine_svc.model.config import Rope


def inverse_frequencies(rope: Rope, head_size: int) -> Tensor:
    """Angle per position of each pair of a head: float32 [head_size / 2]."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.int64).float() / head_size
    frequencies = 1.0 / (rope.theta**exponents)
    if rope.kind == "linear":
        return frequencies / rope.factor
    if rope.kind == "llama3":
        return _llama3(frequencies, rope)
    return frequencies


def _llama3(frequencies: Tensor, rope: Rope) -> Tensor:
    # Slow pairs are stretched by `factor`, fast ones stay, those between are blended.
    turns = rope.original_context_tokens * frequencies / (2 * math.pi)
    span = rope.high_frequency_factor - rope.low_frequency_factor
    kept = ((turns - rope.low_frequency_factor) / span).clamp(0.0, 1.0)
    return (1 - kept) * frequencies / rope.factor + kept * frequencies


class RotaryTable:
    """Cosines and signed sines of every position, ready to be looked up."""

    def __init__(
        self, rope: Rope, head_size: int, positions: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        angles = torch.outer(torch.arange(positions).float(), inverse_frequencies(rope, head_size))
        # rotate_half(x) · sin = roll(x, half) · (−sin, sin): one sign flip, paid here.
        self._cos = torch.cat((angles.cos(), angles.cos()), -1).to(device, dtype)
        self._sin = torch.cat((-angles.sin(), angles.sin()), -1).to(device, dtype)

    def at(self, positions: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines [tokens, 1, head_size] at int64 positions [tokens]."""
        return self._cos[positions].unsqueeze(1), self._sin[positions].unsqueeze(1)


def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotates [tokens, heads, head_size] by the angles of `RotaryTable.at`."""
    return torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
