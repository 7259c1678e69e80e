"""Decode attention over the paged KV cache, as one Triton kernel. CUDA only.

Reads each sequence's own tokens once, where gathering them for SDPA would read the
padded batch twice and write it once more: at 512 sequences of mixed length that is
most of a step. One program attends all query heads of one KV head of one sequence
(flash decoding, Dao et al. 2023, without the split over the context). Imported by
`attention` on CUDA, since Triton comes with PyTorch's CUDA builds only.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE_TOKENS = 64


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _kernel(  # type: ignore[no-untyped-def]
    q_ptr, k_ptr, v_ptr, tables_ptr, lengths_ptr, out_ptr,
    scale, tables_stride, kv_heads,
    GROUP: tl.constexpr, GROUP_PADDED: tl.constexpr,
    HEAD_SIZE: tl.constexpr, HEAD_PADDED: tl.constexpr,
    BLOCK_TOKENS: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row, kv_head = tl.program_id(0).to(tl.int64), tl.program_id(1)
    length = tl.load(lengths_ptr + row)
    group, feature = tl.arange(0, GROUP_PADDED), tl.arange(0, HEAD_PADDED)
    in_head = feature < HEAD_SIZE
    heads = kv_head * GROUP + group
    cells = (row * kv_heads * GROUP + heads)[:, None] * HEAD_SIZE + feature[None, :]
    is_query = (group < GROUP)[:, None] & in_head[None, :]
    q = tl.load(q_ptr + cells, mask=is_query, other=0.0)
    best = tl.full([GROUP_PADDED], float("-inf"), tl.float32)
    total = tl.zeros([GROUP_PADDED], tl.float32)
    attended = tl.zeros([GROUP_PADDED, HEAD_PADDED], tl.float32)
    for start in range(0, length, TILE):
        token = start + tl.arange(0, TILE)
        is_token = token < length
        entry = tables_ptr + row * tables_stride + token // BLOCK_TOKENS
        block = tl.load(entry, mask=is_token, other=0)
        slot = (block * BLOCK_TOKENS + token % BLOCK_TOKENS) * kv_heads + kv_head
        kv = slot[:, None] * HEAD_SIZE + feature[None, :]
        is_kv = is_token[:, None] & in_head[None, :]
        k = tl.load(k_ptr + kv, mask=is_kv, other=0.0)
        v = tl.load(v_ptr + kv, mask=is_kv, other=0.0)
        scores = tl.dot(q, tl.trans(k), input_precision="ieee") * scale
        scores = tl.where(is_token[None, :], scores, float("-inf"))
        peak = tl.maximum(best, tl.max(scores, 1))
        weights = tl.exp(scores - peak[:, None])
        keep = tl.exp(best - peak)
        total = total * keep + tl.sum(weights, 1)
        attended = attended * keep[:, None]
        attended += tl.dot(weights.to(v.dtype), v, input_precision="ieee")
        best = peak
    result = attended / total[:, None]
    tl.store(out_ptr + cells, result.to(out_ptr.dtype.element_ty), mask=is_query)


def attend(q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor) -> Tensor:
    """Attention of one query a sequence to its cached tokens, softmax in fp32.

    q [rows, heads, head_size]; keys, values [blocks, block_tokens, kv_heads,
    head_size], contiguous; tables int64 [rows, columns] of block numbers; lengths
    int64 [rows], each at least 1. Returns the shape and dtype of q.
    """
    rows, heads, head_size = q.shape
    block_tokens, kv_heads = keys.shape[1:3]
    group = heads // kv_heads
    q = q.contiguous()
    out = torch.empty_like(q)
    _kernel[(rows, kv_heads)](
        q, keys, values, tables, lengths, out,
        head_size**-0.5, tables.stride(0), kv_heads,
        GROUP=group, GROUP_PADDED=max(16, triton.next_power_of_2(group)),
        HEAD_SIZE=head_size, HEAD_PADDED=triton.next_power_of_2(head_size),
        BLOCK_TOKENS=block_tokens, TILE=TILE_TOKENS,
    )  # fmt: skip
    return out
