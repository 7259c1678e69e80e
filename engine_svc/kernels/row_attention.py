"""One new token a row against all that is cached of its sequence, as one kernel.

Norms and rotates the token's heads, caches its key and value, and attends (flash decoding,
Dao et al. 2023): one program for the query heads of a KV head, and for few rows several
that share a long context, of which the last to end joins the parts. The grid is fixed by
the number of rows, so the kernel can be captured. Called by `attention`.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_svc.kernels.heads import angles, turned
from engine_svc.kernels.launch import Kernel, multiprocessors
from engine_svc.kernels.waiting import wait

LOG2_E = 1.4426950408889634
MOST_SPLITS = 32
LEAST_SPLIT_TOKENS = 256
"""Of a part of a context: below, one program is as fast as several."""
TILE_TOKENS = 64
PROGRAMS = 8
"""On a multiprocessor, where a context is cut: so many reads are under way at once."""


@triton.jit(do_not_specialize=["blocks_stride"])  # type: ignore[untyped-decorator, unused-ignore]
def _row_attention(  # type: ignore[no-untyped-def]
    qkv_ptr, slots_ptr, table_ptr, keys_ptr, values_ptr, blocks_ptr, contexts_ptr, out_ptr,
    query_norm_ptr, key_norm_ptr, parts_ptr, arrived_ptr, eps, scale, blocks_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    GROUP_PADDED: tl.constexpr, BLOCK_TOKENS: tl.constexpr, WINDOW: tl.constexpr,
    NORM: tl.constexpr, SPLITS: tl.constexpr, LEAST: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    row, kv_head, split = tl.program_id(0).to(tl.int64), tl.program_id(1), tl.program_id(2)
    GROUP: tl.constexpr = HEADS // KV_HEADS
    member, feature = tl.arange(0, GROUP_PADDED), tl.arange(0, PADDED)
    is_feature = feature < HEAD
    is_query = (member < GROUP)[:, None] & is_feature[None, :]
    one = tl.arange(0, 1)[:, None]
    out_cells = (row * HEADS + kv_head * GROUP + member)[:, None] * HEAD + feature[None, :]
    wait(OVERLAP)

    # [first, past) is cached and seen; the new token is at `past`.
    context = tl.load(contexts_ptr + row)
    past = tl.maximum(context - 1, 0)
    first = tl.maximum(context - WINDOW, 0) if WINDOW > 0 else 0
    share = tl.cdiv(tl.cdiv(past - first, SPLITS), TILE) * TILE
    share = tl.maximum(share, LEAST)
    active = tl.maximum(tl.cdiv(past - first, share), 1)
    if split >= active:
        return
    begin = first + split * share
    end = tl.minimum(begin + share, past)

    token_cell = row * ((HEADS + 2 * KV_HEADS) * HEAD)
    cos, sin = angles(table_ptr, past + tl.zeros_like(one), HEAD, PADDED)
    q_cell = token_cell + (kv_head * GROUP + member)[:, None] * HEAD
    q = turned(qkv_ptr, q_cell, query_norm_ptr, eps, cos, sin, is_query, HEAD, PADDED, NORM)
    k_cell = token_cell + (HEADS + kv_head + one) * HEAD
    k_new = turned(
        qkv_ptr, k_cell, key_norm_ptr, eps, cos, sin, is_feature[None, :], HEAD, PADDED, NORM
    )
    v_cell = token_cell + (HEADS + KV_HEADS + kv_head) * HEAD
    v_new = tl.load(qkv_ptr + v_cell + feature, mask=is_feature, other=0.0)
    q = q.to(keys_ptr.dtype.element_ty)
    k_new = k_new.to(keys_ptr.dtype.element_ty)

    # The last part has the new token, which it need not read back, and caches it.
    is_last = split == active - 1
    slot = tl.load(slots_ptr + row)
    kept = (slot * KV_HEADS + kv_head) * HEAD + feature
    keeps = is_feature & is_last & (slot >= 0)
    tl.store(keys_ptr + kept[None, :], k_new, mask=keeps[None, :])
    tl.store(values_ptr + kept, v_new, mask=keeps)
    new_score = tl.sum(q.to(tl.float32) * k_new.to(tl.float32), 1) * scale
    best = tl.where(is_last, new_score, float("-inf"))
    total = tl.where(is_last, 1.0, 0.0) + tl.zeros([GROUP_PADDED], tl.float32)
    attended = tl.where(is_last, v_new.to(tl.float32)[None, :], 0.0)
    attended += tl.zeros([GROUP_PADDED, PADDED], tl.float32)

    for start in tl.range(begin, end, TILE, num_stages=STAGES):
        token = start + tl.arange(0, TILE)
        is_token = token < end
        entry = blocks_ptr + row * blocks_stride + token // BLOCK_TOKENS
        block = tl.load(entry, mask=is_token, other=0).to(tl.int64)
        cell = ((block * BLOCK_TOKENS + token % BLOCK_TOKENS) * KV_HEADS + kv_head) * HEAD
        kv = cell[:, None] + feature[None, :]
        is_kv = is_token[:, None] & is_feature[None, :]
        k = tl.load(keys_ptr + kv, mask=is_kv, other=0.0)
        v = tl.load(values_ptr + kv, mask=is_kv, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(is_token[None, :], scores, float("-inf"))
        peak = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp2(scores - peak[:, None])
        keep = tl.exp2(best - peak)
        total = total * keep + tl.sum(weights, 1)
        attended = attended * keep[:, None]
        attended += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = peak

    if SPLITS > 1 and active > 1:
        group = row * KV_HEADS + kv_head
        part = parts_ptr + (group * SPLITS + split) * (GROUP_PADDED * (PADDED + 2))
        cells = member[:, None] * PADDED + feature[None, :]
        tl.store(part + cells, attended)
        tl.store(part + GROUP_PADDED * PADDED + member, best)
        tl.store(part + GROUP_PADDED * (PADDED + 1) + member, total)
        tl.debug_barrier()
        # Released by this add, acquired by that of the last one to come.
        before = tl.atomic_add(arrived_ptr + group, 1, sem="acq_rel", scope="gpu")
        if before < active - 1:
            return
        tl.debug_barrier()
        parts = parts_ptr + group * SPLITS * (GROUP_PADDED * (PADDED + 2))
        best = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
        total = tl.zeros([GROUP_PADDED], tl.float32)
        attended = tl.zeros([GROUP_PADDED, PADDED], tl.float32)
        for index in range(0, active):
            other = parts + index * (GROUP_PADDED * (PADDED + 2))
            other_best = tl.load(other + GROUP_PADDED * PADDED + member)
            peak = tl.maximum(best, other_best)
            keep, weight = tl.exp2(best - peak), tl.exp2(other_best - peak)
            total *= keep
            total += weight * tl.load(other + GROUP_PADDED * (PADDED + 1) + member)
            attended *= keep[:, None]
            attended += weight[:, None] * tl.load(other + cells)
            best = peak
        tl.store(arrived_ptr + group, 0)
    result = tl.where(context > 0, attended / total[:, None], 0.0)
    tl.store(out_ptr + out_cells, result.to(out_ptr.dtype.element_ty), mask=is_query)


_attend = Kernel(_row_attention)


def attend_rows(
    qkv: Tensor,
    slots: Tensor,
    table: Tensor,
    keys: Tensor,
    values: Tensor,
    blocks: Tensor,
    contexts: Tensor,
    out: Tensor,
    *,
    heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
    window: int | None,
) -> None:
    """Writes the attention of each row to `out` [rows, heads · head_size]; softmax in fp32.

    qkv [rows, (heads + 2 · kv_heads) · head_size]; slots int64 [rows]; table float32
    [positions, 2, head_size / 2]; keys, values [blocks, block_tokens, kv_heads, head_size] of
    one layer; blocks int32 [rows, columns]; contexts int32 [rows], the new token counted, 0 for
    padding. Contiguous but for the blocks' rows.
    """
    block_tokens, kv_heads, head_size = keys.shape[1:]
    rows, group = len(qkv), max(16, triton.next_power_of_2(heads // kv_heads))
    padded = triton.next_power_of_2(head_size)
    splits = _splits(rows * kv_heads)
    parts = arrived = None
    if splits > 1:
        size = rows * kv_heads * splits * group * (padded + 2)
        parts = torch.empty(size, dtype=torch.float32, device=qkv.device)
        arrived = _counters(qkv.device)
    arguments = (
        *(qkv, slots, table, keys, values, blocks, contexts, out, query_norm, key_norm),
        *(parts, arrived, eps, head_size**-0.5 * LOG2_E, blocks.stride(0)),
    )
    constants = {
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "HEAD": head_size,
        "PADDED": padded,
        "GROUP_PADDED": group,
        "BLOCK_TOKENS": block_tokens,
        "WINDOW": window or 0,
        "NORM": query_norm is not None,
        "SPLITS": splits,
        "LEAST": LEAST_SPLIT_TOKENS,
        "TILE": TILE_TOKENS,
        "STAGES": 3,
    }
    _attend.launch((rows, kv_heads, splits), arguments, constants)


def _splits(programs: int) -> int:
    """Parts of a context, for PROGRAMS on each multiprocessor where a context is long."""
    wanted = PROGRAMS * multiprocessors() // programs
    return min(MOST_SPLITS, 1 << max(0, wanted.bit_length() - 1))


@cache
def _counters(device: torch.device) -> Tensor:
    """How many parts have ended, by row and KV head; zero between kernels of a stream."""
    return torch.zeros(PROGRAMS * multiprocessors(), dtype=torch.int32, device=device)
