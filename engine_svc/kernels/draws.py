"""The choice of tokens as Triton kernels: one pass over the logits, without the host.

The same choice as `nucleus`, which explains it. Tiles of the vocabulary race by
themselves and a second kernel takes the best of them; what filters exclude, it learns
from `cuts`. Imported by `sampler` on CUDA, since Triton comes with PyTorch's CUDA
builds only.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_svc import random_stream
from engine_svc.kernels.cuts import cuts
from engine_svc.sampling_plan import Plan
from engine_svc.sampling_table import FLOATS, INTEGERS, WORDS, SamplingTable

RACE_TILE: Final = 4096

_GAMMA = tl.constexpr(random_stream.GAMMA)
_FIRST = tl.constexpr(random_stream.FIRST)
_SECOND = tl.constexpr(random_stream.SECOND)
_SERIES_BELOW = tl.constexpr(random_stream.SERIES_BELOW)
_LARGEST_UNIFORM = tl.constexpr(random_stream.LARGEST_UNIFORM)
# A row of the table is WORDS integers of 64 bits, or twice as many floats.
_WORDS = tl.constexpr(WORDS)
_SEED = tl.constexpr(INTEGERS.index("seed"))
_TEMPERATURE = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("temperature"))


def choose(
    logits: Tensor, table: SamplingTable, places: Tensor, lengths: Tensor, plan: Plan
) -> Tensor:
    """Token ids int64 [rows], -1 where a row is not finite; also put into `last_tokens`.

    Arguments as `DeviceSampler.sample`'s, the logits after all rules.
    """
    rows, vocabulary = logits.shape
    logits = logits.contiguous()
    tiles = triton.cdiv(vocabulary, RACE_TILE)
    best = torch.empty((rows, tiles), dtype=torch.float32, device=logits.device)
    winner = torch.empty((rows, tiles), dtype=torch.int32, device=logits.device)
    tokens = torch.empty(rows, dtype=torch.int64, device=logits.device)
    words, floats = table.words, table.words.view(torch.float32)
    cut_logits = cut_tokens = tokens
    if plan.filters:
        cut_logits, cut_tokens = cuts(logits, table, places)
    _race[(rows, tiles)](
        logits, words, floats, places, lengths, cut_logits, cut_tokens, best, winner,
        DRAWS=plan.draws, CUTS=plan.filters, VOCABULARY=vocabulary, TILE=RACE_TILE,
        num_warps=8,
    )  # fmt: skip
    _settle[(rows,)](
        best, winner, places, tokens, table.last_tokens, tiles,
        TILES=triton.next_power_of_2(tiles), num_warps=1,
    )  # fmt: skip
    return tokens


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _mixed(state):  # type: ignore[no-untyped-def]
    state = (state ^ (state >> 30)) * _FIRST
    state = (state ^ (state >> 27)) * _SECOND
    return state ^ (state >> 31)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _exponentials(key, token):  # type: ignore[no-untyped-def]
    """As `random_stream.exponentials`."""
    bits = _mixed(key + (token.to(tl.uint64) + 1) * _GAMMA) >> 32
    uniform = (bits.to(tl.uint32).to(tl.float32) + 0.5) * 2.3283064365386963e-10  # 2 ** -32
    uniform = tl.minimum(uniform, _LARGEST_UNIFORM)
    series = uniform + uniform * uniform * 0.5
    return tl.where(uniform < _SERIES_BELOW, series, -tl.log(1.0 - uniform))


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _race(  # type: ignore[no-untyped-def]
    logits_ptr, words_ptr, floats_ptr, places_ptr, lengths_ptr, cut_logits_ptr, cut_tokens_ptr,
    best_ptr, winner_ptr,
    DRAWS: tl.constexpr, CUTS: tl.constexpr, VOCABULARY: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The best token of one tile of one row; -1 where the tile is not finite."""
    row, tile = tl.program_id(0).to(tl.int64), tl.program_id(1)
    token = tile * TILE + tl.arange(0, TILE)
    is_token = token < VOCABULARY
    logit = tl.load(logits_ptr + row * VOCABULARY + token, mask=is_token, other=0.0)
    logit = logit.to(tl.float32)
    finite = tl.abs(logit) < float("inf")
    score = logit
    if DRAWS:
        place = tl.load(places_ptr + row)
        temperature = tl.load(floats_ptr + place * 2 * _WORDS + _TEMPERATURE)
        if temperature > 0:
            seed = tl.load(words_ptr + place * _WORDS + _SEED).to(tl.uint64)
            length = tl.load(lengths_ptr + row).to(tl.uint64)
            key = _mixed(seed + (length + 1) * _GAMMA)
            score = logit / temperature - tl.log(_exponentials(key, token))
            if CUTS:
                cut_logit = tl.load(cut_logits_ptr + row)
                cut_token = tl.load(cut_tokens_ptr + row)
                kept = (logit > cut_logit) | ((logit == cut_logit) & (token <= cut_token))
                score = tl.where(kept, score, float("-inf"))
    score = tl.where(is_token & finite, score, float("-inf"))
    best, at = tl.max(score, 0, return_indices=True)
    winner = tl.where(tl.min(finite.to(tl.int32), 0) == 0, -1, tile * TILE + at)
    cell = row * tl.num_programs(1) + tile
    tl.store(best_ptr + cell, best)
    tl.store(winner_ptr + cell, winner)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _settle(  # type: ignore[no-untyped-def]
    best_ptr, winner_ptr, places_ptr, tokens_ptr, last_tokens_ptr, tiles,
    TILES: tl.constexpr,
):  # fmt: skip
    """The best of a row's tiles."""
    row = tl.program_id(0).to(tl.int64)
    tile = tl.arange(0, TILES)
    is_tile = tile < tiles
    best = tl.load(best_ptr + row * tiles + tile, mask=is_tile, other=float("-inf"))
    winner = tl.load(winner_ptr + row * tiles + tile, mask=is_tile, other=0)
    at = tl.argmax(best, 0)
    token = tl.sum(tl.where(tile == at, winner, 0), 0)
    token = tl.where(tl.min(winner, 0) < 0, -1, token).to(tl.int64)
    tl.store(tokens_ptr + row, token)
    # A row that failed may run once more before the host knows: its input is a valid token.
    tl.store(last_tokens_ptr + tl.load(places_ptr + row), tl.maximum(token, 0))
