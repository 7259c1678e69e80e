"""The random numbers of sampling: one for each seed, position and token, from a hash.

A counter-based stream has no state, so a request draws the same alone, in any batch,
and when it is resumed on another engine. `sampling_table` mixes seeds on the host,
`nucleus` and `kernels.draws` (which repeats `exponentials` in Triton) do the rest on the
device. Source: SplitMix64 (Steele, Lea and Flood 2014, figure 17).
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

GAMMA: Final = 0x9E3779B97F4A7C15
FIRST: Final = 0xBF58476D1CE4E5B9
SECOND: Final = 0x94D049BB133111EB

SERIES_BELOW: Final = 2.0**-10
"""Below this 1 - u would round away what tells small exponentials apart."""
LARGEST_UNIFORM: Final = 1.0 - 2.0**-24

_WORD: Final = (1 << 64) - 1


def mixed_seed(seed: int) -> int:
    """A seed of 64 bits without sign, mixed, as a signed one.

    Mixed here and once more in `keys`: seeds, or positions, that follow one another
    share no stream.
    """
    state = seed & _WORD
    state = ((state ^ (state >> 30)) * FIRST) & _WORD
    state = ((state ^ (state >> 27)) * SECOND) & _WORD
    return _signed(state ^ (state >> 31))


def keys(mixed_seeds: Tensor, lengths: Tensor) -> Tensor:
    """One key a row for `exponentials`, int64 [rows].

    `mixed_seeds` int64 [rows]; `lengths` int64 [rows], the number of tokens before the
    one that is drawn.
    """
    return _mixed(mixed_seeds + (lengths + 1) * _signed(GAMMA))


def exponentials(row_keys: Tensor, token_ids: Tensor) -> Tensor:
    """Draws from the exponential distribution of rate 1, float32 [rows, tokens], above 0.

    `row_keys` int64 [rows, 1]; `token_ids` int64, [rows, tokens] or [tokens]. Small draws
    decide a race: they come from 32 bits, so that a token of probability 1e-9 wins as
    seldom, and as often, as it should.
    """
    bits = _shifted(_mixed(row_keys + (token_ids + 1) * _signed(GAMMA)), 32)
    uniform = ((bits.float() + 0.5) * 2.0**-32).clamp(max=LARGEST_UNIFORM)
    series = uniform + uniform * uniform * 0.5
    return torch.where(uniform < SERIES_BELOW, series, -torch.log(1.0 - uniform))


def _mixed(state: Tensor) -> Tensor:
    state = (state ^ _shifted(state, 30)) * _signed(FIRST)
    state = (state ^ _shifted(state, 27)) * _signed(SECOND)
    return state ^ _shifted(state, 31)


def _shifted(value: Tensor, bits: int) -> Tensor:
    """Shift to the right without sign; PyTorch has signed 64-bit integers only."""
    return (value >> bits) & ((1 << (64 - bits)) - 1)


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value
