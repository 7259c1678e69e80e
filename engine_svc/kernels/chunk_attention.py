"""Parts of prompts against what is cached of them and causally themselves, as one kernel.

Flash attention (Dao 2023) over the blocks of the cache: one program for a tile of queries
of one head. The grid depends on host numbers that are upper bounds only. Keys and values
are cached beforehand by `prompt_heads`. Called by `attention`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine_svc.attention import ChunkTables
from engine_svc.kernels.launch import Kernel
from engine_svc.kernels.row_attention import LOG2_E
from engine_svc.kernels.waiting import wait


@triton.jit(do_not_specialize=["blocks_stride"])  # type: ignore[untyped-decorator, unused-ignore]
def _chunk_attention(  # type: ignore[no-untyped-def]
    qkv_ptr, keys_ptr, values_ptr, blocks_ptr, starts_ptr, contexts_ptr, out_ptr,
    scale, blocks_stride,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, WINDOW: tl.constexpr,
    TILE_QUERIES: tl.constexpr, TILE: tl.constexpr,
    STAGES: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    chunk, head = tl.program_id(1).to(tl.int64), tl.program_id(2)
    kv_head = head // (HEADS // KV_HEADS)
    feature = tl.arange(0, PADDED)
    is_feature = feature < HEAD
    wait(OVERLAP)
    begin = tl.load(starts_ptr + chunk)
    queries = tl.load(starts_ptr + chunk + 1) - begin
    query = tl.program_id(0) * TILE_QUERIES + tl.arange(0, TILE_QUERIES)
    if tl.program_id(0) * TILE_QUERIES >= queries:
        return
    is_cell = (query < queries)[:, None] & is_feature[None, :]
    token_cell = (begin + query).to(tl.int64)[:, None]
    q_cells = token_cell * ((HEADS + 2 * KV_HEADS) * HEAD) + head * HEAD + feature[None, :]
    q = tl.load(qkv_ptr + q_cells, mask=is_cell, other=0.0)

    context = tl.load(contexts_ptr + chunk)
    position = context - queries + query
    oldest = context - queries + tl.program_id(0) * TILE_QUERIES
    end = tl.minimum(oldest + TILE_QUERIES, context)
    first = tl.maximum(oldest - WINDOW + 1, 0) // TILE * TILE if WINDOW > 0 else 0
    best = tl.full([TILE_QUERIES], float("-inf"), tl.float32)
    total = tl.zeros([TILE_QUERIES], tl.float32)
    attended = tl.zeros([TILE_QUERIES, PADDED], tl.float32)
    for start in tl.range(first, end, TILE, num_stages=STAGES):
        token = start + tl.arange(0, TILE)
        is_token = token < end
        entry = blocks_ptr + chunk * blocks_stride + token // BLOCK_TOKENS
        block = tl.load(entry, mask=is_token, other=0).to(tl.int64)
        cell = ((block * BLOCK_TOKENS + token % BLOCK_TOKENS) * KV_HEADS + kv_head) * HEAD
        kv = cell[:, None] + feature[None, :]
        is_kv = is_token[:, None] & is_feature[None, :]
        k = tl.load(keys_ptr + kv, mask=is_kv, other=0.0)
        v = tl.load(values_ptr + kv, mask=is_kv, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        seen = token[None, :] <= position[:, None]
        if WINDOW > 0:
            seen &= position[:, None] - token[None, :] < WINDOW
        scores = tl.where(seen, scores, float("-inf"))
        peak = tl.maximum(best, tl.max(scores, 1))
        # Under a window a row may see nothing of its first tiles: −∞ − −∞ must not be NaN.
        shift = tl.where(peak == float("-inf"), 0.0, peak) if WINDOW > 0 else peak
        weights = tl.exp2(scores - shift[:, None])
        keep = tl.exp2(best - shift)
        total = total * keep + tl.sum(weights, 1)
        attended = attended * keep[:, None]
        attended += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = peak
    result = attended / total[:, None]
    out_cells = token_cell * (HEADS * HEAD) + head * HEAD + feature[None, :]
    tl.store(out_ptr + out_cells, result.to(out_ptr.dtype.element_ty), mask=is_cell)


_attend = Kernel(_chunk_attention)


def attend_chunks(
    qkv: Tensor,
    keys: Tensor,
    values: Tensor,
    chunks: ChunkTables,
    out: Tensor,
    *,
    heads: int,
    window: int | None,
) -> None:
    """Writes the attention of the chunks' tokens to `out` [tokens, heads · head_size].

    The queries in `qkv` are turned already and the tokens' keys and values are cached. keys,
    values [blocks, block_tokens, kv_heads, head_size] of one layer. Softmax in fp32.
    """
    block_tokens, kv_heads, head_size = keys.shape[1:]
    wide = chunks.longest_query > 64 and qkv.element_size() == 2
    tile = 128 if wide else 64 if chunks.longest_query > 16 else 16
    arguments = (
        *(qkv, keys, values, chunks.tables, chunks.query_starts, chunks.context_tokens, out),
        *(head_size**-0.5 * LOG2_E, chunks.tables.stride(0)),
    )
    constants = {
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "HEAD": head_size,
        "PADDED": triton.next_power_of_2(head_size),
        "BLOCK_TOKENS": block_tokens,
        "WINDOW": window or 0,
        "TILE_QUERIES": tile,
        "TILE": 64 if qkv.element_size() == 2 else 32,
        "STAGES": 2,
    }
    grid = (triton.cdiv(chunks.longest_query, tile), len(chunks.context_tokens), heads)
    _attend.launch(grid, arguments, constants, warps=8 if wide and head_size > 64 else 4)
