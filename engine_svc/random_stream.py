"""The random numbers of sampling: one for each seed, position and token, from a hash.

A counter-based stream has no state, so a request draws the same alone, in any batch,
and when it is resumed on another engine. Called by `sampler` (keys) and `nucleus`
(the race). Source: SplitMix64 (Steele, Lea and Flood 2014, figure 17).
"""

from __future__ import annotations

from typing import Final

import numpy as np
import torch
from torch import Tensor

_GAMMA: Final = 0x9E3779B97F4A7C15
_FIRST: Final = 0xBF58476D1CE4E5B9
_SECOND: Final = 0x94D049BB133111EB


def keys(seeds: np.ndarray, positions: np.ndarray) -> np.ndarray:
    """One key a row for `exponentials`, int64 [rows].

    `seeds` uint64 [rows]; `positions` uint64 [rows], the number of tokens before the
    one that is drawn.
    """
    # Mixed twice: seeds, or positions, that follow one another share no stream.
    state = _mix(seeds) + (positions + np.uint64(1)) * np.uint64(_GAMMA)
    mixed: np.ndarray = _mix(state).view(np.int64)
    return mixed


def exponentials(row_keys: Tensor, token_ids: Tensor) -> Tensor:
    """Draws from the exponential distribution of rate 1, float32 [rows, tokens], above 0.

    `row_keys` int64 [rows, 1]; `token_ids` int64, [rows, tokens] or [tokens].
    """
    state = row_keys + (token_ids + 1) * _signed(_GAMMA)
    state = (state ^ _shifted(state, 30)) * _signed(_FIRST)
    state = (state ^ _shifted(state, 27)) * _signed(_SECOND)
    # 23 bits and a half: float32 holds them exactly, and neither 0 nor 1 is among them.
    bits = _shifted(state ^ _shifted(state, 31), 41)
    return -torch.log((bits.float() + 0.5) * 2.0**-23)


def _mix(value: np.ndarray) -> np.ndarray:
    value = (value ^ (value >> np.uint64(30))) * np.uint64(_FIRST)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(_SECOND)
    mixed: np.ndarray = value ^ (value >> np.uint64(31))
    return mixed


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shift to the right without sign; PyTorch has signed 64-bit integers only."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
