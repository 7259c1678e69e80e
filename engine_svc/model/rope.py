"""Rotary position embeddings: the table of angles, and its application.

Source: RoFormer (Su et al. 2021), section 3.2, in the half-split layout that Hugging
Face models use; the `llama3` scaling is that of Llama 3.1's reference code. Kernels
read the table themselves; `rotate` is the plain form.
"""

from __future__ import annotations

import math
from functools import cached_property

import torch
from torch import Tensor

from engine_svc.model.config import Rope
from engine_svc.model.yarn import yarn_frequencies


def inverse_frequencies(rope: Rope, head_size: int) -> Tensor:
    """Angle per position of each pair of a head: float32 [head_size / 2]."""
    exponents = torch.arange(0, head_size, 2, dtype=torch.int64).float() / head_size
    frequencies = 1.0 / (rope.theta**exponents)
    match rope.kind:
        case "linear":
            return frequencies / rope.factor
        case "llama3":
            return _llama3(frequencies, rope)
        case "yarn":
            return yarn_frequencies(frequencies, rope)
        case "divided":
            return frequencies / torch.tensor(rope.divisors)
    return frequencies


def _llama3(frequencies: Tensor, rope: Rope) -> Tensor:
    # Slow pairs are stretched by `factor`, fast ones stay, those between are blended.
    turns = rope.original_context_tokens * frequencies / (2 * math.pi)
    span = rope.high_frequency_factor - rope.low_frequency_factor
    kept = ((turns - rope.low_frequency_factor) / span).clamp(0.0, 1.0)
    return (1 - kept) * frequencies / rope.factor + kept * frequencies


class RotaryTable:
    """Cosines and sines of every position: float32 [positions, 2, head_size / 2]."""

    def __init__(self, rope: Rope, head_size: int, positions: int, device: torch.device) -> None:
        frequencies = inverse_frequencies(rope, head_size)
        angles = torch.outer(torch.arange(positions).float(), frequencies)
        table = torch.stack((angles.cos(), angles.sin()), 1) * rope.magnitude
        self.values = table.to(device)

    def at(self, positions: Tensor) -> Rotation:
        """The rotation of tokens at int64 positions [tokens]."""
        return Rotation(self, positions)


class Rotation:
    """By what the heads of each token of one forward pass are turned."""

    def __init__(self, table: RotaryTable, positions: Tensor) -> None:
        self.table = table.values
        self.positions = positions

    @cached_property
    def cos_sin(self) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines, float32 [tokens, 1, head_size]; found once, used by layers."""
        cos, sin = self.table[self.positions].unsqueeze(1).unbind(2)
        # rotate_half(x) · sin = roll(x, half) · (−sin, sin): one sign flip, paid here.
        return torch.cat((cos, cos), -1), torch.cat((-sin, sin), -1)


def rotate(heads: Tensor, rotation: Rotation) -> Tensor:
    """Rotates [tokens, heads, head_size]."""
    cos, sin = rotation.cos_sin
    turned = torch.addcmul(heads * cos, heads.roll(heads.shape[-1] // 2, -1), sin)
    return turned.to(heads.dtype)
