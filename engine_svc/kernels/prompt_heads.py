"""Makes the heads of prompts' tokens ready: norms, rotation, and keys and values cached.

One kernel; queries are turned where they lie. Called by `attention`.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from engine_svc.kernels.heads import angles, turned
from engine_svc.kernels.launch import Kernel
from engine_svc.kernels.waiting import wait

TILE_TOKENS = 16


@triton.jit(do_not_specialize=["tokens"])  # type: ignore[untyped-decorator, unused-ignore]
def _prompt_heads(  # type: ignore[no-untyped-def]
    qkv_ptr, slots_ptr, positions_ptr, table_ptr, keys_ptr, values_ptr,
    query_norm_ptr, key_norm_ptr, eps, tokens,
    HEADS: tl.constexpr, KV_HEADS: tl.constexpr, HEAD: tl.constexpr, PADDED: tl.constexpr,
    NORM: tl.constexpr, TILE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    token = (tl.program_id(0) * TILE + tl.arange(0, TILE)).to(tl.int64)
    head = tl.program_id(1)
    feature = tl.arange(0, PADDED)
    is_token = token < tokens
    is_cell = is_token[:, None] & (feature < HEAD)[None, :]
    cell = token[:, None] * ((HEADS + 2 * KV_HEADS) * HEAD) + head * HEAD
    wait(OVERLAP)
    slot = tl.load(slots_ptr + token, mask=is_token, other=-1)
    if head >= HEADS + KV_HEADS:
        value = tl.load(qkv_ptr + cell + feature[None, :], mask=is_cell, other=0.0)
        kept = (slot * KV_HEADS + head - HEADS - KV_HEADS)[:, None] * HEAD + feature[None, :]
        tl.store(values_ptr + kept, value, mask=is_cell & (slot >= 0)[:, None])
    else:
        position = tl.load(positions_ptr + token, mask=is_token, other=-1)[:, None]
        cos, sin = angles(table_ptr, position, HEAD, PADDED)
        if head < HEADS:
            query = turned(
                qkv_ptr, cell, query_norm_ptr, eps, cos, sin, is_cell, HEAD, PADDED, NORM
            )
            # Each feature's partner is read by other threads of this program.
            tl.debug_barrier()
            query = query.to(qkv_ptr.dtype.element_ty)
            tl.store(qkv_ptr + cell + feature[None, :], query, mask=is_cell)
        else:
            key = turned(qkv_ptr, cell, key_norm_ptr, eps, cos, sin, is_cell, HEAD, PADDED, NORM)
            kept = (slot * KV_HEADS + head - HEADS)[:, None] * HEAD + feature[None, :]
            key = key.to(keys_ptr.dtype.element_ty)
            tl.store(keys_ptr + kept, key, mask=is_cell & (slot >= 0)[:, None])


_prepare = Kernel(_prompt_heads)


def prepare_prompt_heads(
    qkv: Tensor,
    slots: Tensor,
    positions: Tensor,
    table: Tensor,
    keys: Tensor,
    values: Tensor,
    *,
    heads: int,
    query_norm: Tensor | None,
    key_norm: Tensor | None,
    eps: float,
) -> None:
    """Turns the queries in `qkv` [tokens, …] in place and caches keys and values.

    slots, positions int64 [tokens]; table float32 [positions, 2, head_size / 2]; keys, values
    [blocks, block_tokens, kv_heads, head_size] of one layer; all contiguous.
    """
    kv_heads, head_size = keys.shape[-2:]
    tokens = len(qkv)
    arguments = (qkv, slots, positions, table, keys, values, query_norm, key_norm, eps, tokens)
    constants = {
        "HEADS": heads,
        "KV_HEADS": kv_heads,
        "HEAD": head_size,
        "PADDED": triton.next_power_of_2(head_size),
        "NORM": query_norm is not None,
        "TILE": TILE_TOKENS,
    }
    grid = (triton.cdiv(tokens, TILE_TOKENS), heads + 2 * kv_heads, 1)
    _prepare.launch(grid, arguments, constants, warps=2)
