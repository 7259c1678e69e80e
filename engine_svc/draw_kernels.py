"""The choice of tokens as Triton kernels: one pass over the logits, without the host.

The same choice as `nucleus`, which explains it. Filters become a cut in the order of
tokens, found by search instead of a sort: each row's program counts, or weighs, what
lies above seven pivots at once and goes on between two of them. Then tiles of the
vocabulary race by themselves and a last kernel takes the best of them. Imported by
`sampler` on CUDA, since Triton comes with PyTorch's CUDA builds only.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_svc import random_stream
from engine_svc.sampling_plan import Plan
from engine_svc.sampling_table import FLOATS, INTEGERS, WORDS, SamplingTable

RACE_TILE: Final = 4096
CUT_TILE: Final = 2048

_GAMMA = tl.constexpr(random_stream.GAMMA)
_FIRST = tl.constexpr(random_stream.FIRST)
_SECOND = tl.constexpr(random_stream.SECOND)
_SERIES_BELOW = tl.constexpr(random_stream.SERIES_BELOW)
_LARGEST_UNIFORM = tl.constexpr(random_stream.LARGEST_UNIFORM)
# A row of the table is WORDS integers of 64 bits, or twice as many floats.
_WORDS = tl.constexpr(WORDS)
_SEED = tl.constexpr(INTEGERS.index("seed"))
_TOP_K = tl.constexpr(INTEGERS.index("top_k"))
_TEMPERATURE = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("temperature"))
_TOP_P = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("top_p"))
_MIN_P = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("min_p"))
_PIVOTS = tl.constexpr(8)


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


def cuts(logits: Tensor, table: SamplingTable, places: Tensor) -> tuple[Tensor, Tensor]:
    """Where each row's order is cut: the last logit that is kept, and its last token.

    Kept is what is larger, and of its equals the tokens up to that id. `logits` [rows,
    vocabulary], contiguous. Returns float32 [rows] and int32 [rows].
    """
    rows, vocabulary = logits.shape
    cut_logits = torch.empty(rows, dtype=torch.float32, device=logits.device)
    cut_tokens = torch.empty(rows, dtype=torch.int32, device=logits.device)
    _cut[(rows,)](
        logits, table.words, table.words.view(torch.float32), places, cut_logits, cut_tokens,
        VOCABULARY=vocabulary, UNUSED_BITS=16 if logits.dtype == torch.bfloat16 else 0,
        TILE=CUT_TILE, num_warps=16,
    )  # fmt: skip
    return cut_logits, cut_tokens


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


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _order(logit, UNUSED_BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """An integer that orders as floats do; 0 and -0 are equal."""
    bits = (logit + 0.0).to(tl.int32, bitcast=True)
    return ((bits ^ ((bits >> 31) & 0x7FFFFFFF)) >> UNUSED_BITS).to(tl.int64)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _value(order, UNUSED_BITS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The float of an `_order`."""
    bits = order.to(tl.int32) << UNUSED_BITS
    unused = (1 << UNUSED_BITS) - 1
    bits = tl.where(bits < 0, (bits | unused) ^ 0x7FFFFFFF, bits)
    return bits.to(tl.float32, bitcast=True)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _range(row_ptr, VOCABULARY: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The least and the largest logit."""
    least = tl.full([TILE], float("inf"), tl.float32)
    most = tl.full([TILE], float("-inf"), tl.float32)
    for start in range(0, VOCABULARY, TILE):
        token = start + tl.arange(0, TILE)
        is_token = token < VOCABULARY
        logit = tl.load(row_ptr + token, mask=is_token, other=0.0).to(tl.float32)
        least = tl.minimum(least, tl.where(is_token, logit, float("inf")))
        most = tl.maximum(most, tl.where(is_token, logit, float("-inf")))
    return tl.min(least, 0), tl.max(most, 0)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _mass(  # type: ignore[no-untyped-def]
    row_ptr, last, equals, most, temperature, VOCABULARY: tl.constexpr, TILE: tl.constexpr
):
    """Of all above `last` and of `equals` like it, relative to the most probable token's."""
    above = tl.zeros([TILE], tl.float32)
    like = tl.zeros([TILE], tl.float32)
    for start in range(0, VOCABULARY, TILE):
        token = start + tl.arange(0, TILE)
        is_token = token < VOCABULARY
        logit = tl.load(row_ptr + token, mask=is_token, other=0.0).to(tl.float32)
        weight = tl.exp((logit - most) / temperature)
        above += tl.where(is_token & (logit > last), weight, 0.0)
        like += tl.where(is_token & (logit == last), 1.0, 0.0)
    count = tl.minimum(tl.sum(like, 0), equals)
    return tl.sum(above, 0) + count * tl.exp((last - most) / temperature)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _search(  # type: ignore[no-untyped-def]
    row_ptr, low, high, target, most, temperature,
    BY_MASS: tl.constexpr, VOCABULARY: tl.constexpr, UNUSED_BITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The largest order in [low, high) from which on the tokens measure `target` together.

    Also the measure of those above it. The measure is mass as in `_mass`, or the count.
    """
    pivot = tl.arange(0, _PIVOTS)
    above = tl.full((), 0.0, tl.float32)
    while high - low > 1:
        # The last pivot is `high` itself: whatever is found, what lies above is known.
        orders = low + ((high - low) * (pivot + 1)) // _PIVOTS
        measured = tl.zeros([_PIVOTS, TILE], tl.float32)
        for start in range(0, VOCABULARY, TILE):
            token = start + tl.arange(0, TILE)
            is_token = token < VOCABULARY
            logit = tl.load(row_ptr + token, mask=is_token, other=0.0).to(tl.float32)
            if BY_MASS:
                weight = tl.exp((logit - most) / temperature)
            else:
                weight = tl.full([TILE], 1.0, tl.float32)
            weight = tl.where(is_token, weight, 0.0)
            order = _order(logit, UNUSED_BITS).to(tl.int32)
            counts = order[None, :] >= orders.to(tl.int32)[:, None]
            measured += tl.where(counts, weight[None, :], 0.0)
        measures = tl.sum(measured, 1)
        # Measures fall from pivot to pivot.
        enough = tl.sum((measures >= target).to(tl.int32), 0)
        enough = tl.minimum(enough, _PIVOTS - 1)
        above = tl.sum(tl.where(pivot == enough, measures, 0.0), 0)
        high = tl.sum(tl.where(pivot == enough, orders, 0), 0)
        if enough > 0:
            low = tl.sum(tl.where(pivot == enough - 1, orders, 0), 0)
    return low, above


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _nth(row_ptr, value, count, VOCABULARY: tl.constexpr, TILE: tl.constexpr):  # type: ignore[no-untyped-def]
    """The token at which `count` tokens have this logit; `vocabulary` where fewer have."""
    found = tl.full((), VOCABULARY, tl.int32)
    seen = tl.full((), 0, tl.int32)
    wanted = count.to(tl.int32)
    for start in range(0, VOCABULARY, TILE):
        token = start + tl.arange(0, TILE)
        logit = tl.load(row_ptr + token, mask=token < VOCABULARY, other=float("nan"))
        like = (logit.to(tl.float32) == value).to(tl.int32)
        here = tl.sum(like, 0)
        if (seen < wanted) & (seen + here >= wanted):
            is_nth = (like == 1) & (seen + tl.cumsum(like, 0) == wanted)
            found = tl.max(tl.where(is_nth, token, -1), 0)
        seen += here
    return found


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _cut(  # type: ignore[no-untyped-def]
    logits_ptr, words_ptr, floats_ptr, places_ptr, cut_logits_ptr, cut_tokens_ptr,
    VOCABULARY: tl.constexpr, UNUSED_BITS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """One row's cut; nothing is cut where it asks for no filter."""
    row = tl.program_id(0).to(tl.int64)
    row_ptr = logits_ptr + row * VOCABULARY
    place = tl.load(places_ptr + row)
    temperature = tl.load(floats_ptr + place * 2 * _WORDS + _TEMPERATURE)
    top_p = tl.load(floats_ptr + place * 2 * _WORDS + _TOP_P)
    min_p = tl.load(floats_ptr + place * 2 * _WORDS + _MIN_P)
    top_k = tl.load(words_ptr + place * _WORDS + _TOP_K)
    top_k = tl.where(top_k < VOCABULARY, top_k, 0)
    cut_logit = tl.full((), float("-inf"), tl.float32)
    cut_token = tl.full((), VOCABULARY, tl.int32)
    if (temperature > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0)):
        least, most = _range(row_ptr, VOCABULARY, TILE)
        low, high = _order(least, UNUSED_BITS), _order(most, UNUSED_BITS) + 1
        equals = tl.full((), VOCABULARY, tl.float32)
        if top_k > 0:
            low, above = _search(
                row_ptr, low, high, top_k.to(tl.float32), most, temperature,
                False, VOCABULARY, UNUSED_BITS, TILE,
            )  # fmt: skip
            equals = top_k.to(tl.float32) - above
        if top_p < 1:
            mass = top_p * _mass(
                row_ptr, _value(low, UNUSED_BITS), equals, most, temperature, VOCABULARY, TILE
            )
            cut, above = _search(
                row_ptr, low, high, mass, most, temperature,
                True, VOCABULARY, UNUSED_BITS, TILE,
            )  # fmt: skip
            weight = tl.exp((_value(cut, UNUSED_BITS) - most) / temperature)
            enough = tl.maximum(tl.ceil((mass - above) / weight), 1.0)
            equals = tl.where(cut == low, tl.minimum(equals, enough), enough)
            low = cut
        cut_logit = _value(low, UNUSED_BITS)
        cut_token = _nth(row_ptr, cut_logit, equals, VOCABULARY, TILE)
        if min_p > 0:
            floor = most + temperature * tl.log(min_p)
            cut_token = tl.where(floor > cut_logit, VOCABULARY, cut_token)
            cut_logit = tl.maximum(floor, cut_logit)
    tl.store(cut_logits_ptr + row, cut_logit)
    tl.store(cut_tokens_ptr + row, cut_token)
