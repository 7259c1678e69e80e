"""Filters as a cut in the order of a row's tokens, found by search instead of a sort.

Top-k, top-p and min-p all keep a beginning of the order by logit and, among equals, by
token id: a logit and a token say where it ends. One program a row counts, or weighs,
what lies above seven pivots at once and goes on between two of them: a few sweeps over
logits that stay in the L2 cache, where a sort would move them several times. Called by
`draws`.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_svc.sampling_table import FLOATS, INTEGERS, WORDS, SamplingTable

TILE: Final = 2048
WARPS: Final = 16

# A row of the table is WORDS integers of 64 bits, or twice as many floats.
_WORDS = tl.constexpr(WORDS)
_TOP_K = tl.constexpr(INTEGERS.index("top_k"))
_TEMPERATURE = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("temperature"))
_TOP_P = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("top_p"))
_MIN_P = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("min_p"))
_PIVOTS = tl.constexpr(8)
_TURNS_BY_VALUE = tl.constexpr(3)


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
        TILE=TILE, num_warps=WARPS,
    )  # fmt: skip
    return cut_logits, cut_tokens


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
    turn = tl.full((), 0, tl.int32)
    while high - low > 1:
        # Logits are few where floats are many, near 0: first equal steps of value.
        if turn < _TURNS_BY_VALUE:
            bottom, top = _value(low, UNUSED_BITS), _value(high, UNUSED_BITS)
            orders = _order(bottom + (top - bottom) * ((pivot + 1.0) / _PIVOTS), UNUSED_BITS)
            orders = tl.minimum(tl.maximum(orders, low), high)
        else:
            orders = low + ((high - low) * (pivot + 1)) // _PIVOTS
        # The last pivot is `high` itself: whatever is found, what lies above is known.
        orders = tl.where(pivot == _PIVOTS - 1, high, orders)
        turn += 1
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
