"""What happens to a head before it attends, on the device: its norm, and its rotation.

Called by the kernels of `prompt_heads` and `row_attention`.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def turned(  # type: ignore[no-untyped-def]
    head_ptr, cell, norm_ptr, eps, cos, sin, is_cell,
    HEAD: tl.constexpr, PADDED: tl.constexpr, NORM: tl.constexpr,
):  # fmt: skip
    """Heads at `cell` [n, 1], normed and rotated: float32 [n, PADDED].

    `cos` and signed `sin` are [n or 1, PADDED]; `is_cell` [n, PADDED] says what there is.
    """
    feature = tl.arange(0, PADDED)
    # The other feature of each pair, half a head away.
    other = tl.where(feature < HEAD // 2, feature + HEAD // 2, feature - HEAD // 2)
    head = tl.load(head_ptr + cell + feature[None, :], mask=is_cell, other=0.0).to(tl.float32)
    paired = tl.load(head_ptr + cell + other[None, :], mask=is_cell, other=0.0).to(tl.float32)
    if NORM:
        is_feature = feature < HEAD
        norm = tl.load(norm_ptr + feature, mask=is_feature, other=0.0).to(tl.float32)
        paired_norm = tl.load(norm_ptr + other, mask=is_feature, other=0.0).to(tl.float32)
        factor = tl.rsqrt(tl.sum(head * head, 1) / HEAD + eps)[:, None]
        head *= factor * norm[None, :]
        paired *= factor * paired_norm[None, :]
    return head * cos + paired * sin


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def angles(  # type: ignore[no-untyped-def]
    table_ptr, position, HEAD: tl.constexpr, PADDED: tl.constexpr
):
    """Cosines and signed sines at `position` [n, 1] of the table: each float32 [n, PADDED]."""
    feature = tl.arange(0, PADDED)
    half: tl.constexpr = HEAD // 2
    pair = tl.where(feature < half, feature, feature - half)[None, :]
    is_feature = (feature < HEAD)[None, :] & (position >= 0)
    cells = table_ptr + position * HEAD + pair
    cos = tl.load(cells, mask=is_feature, other=0.0)
    sin = tl.load(cells + half, mask=is_feature, other=0.0)
    return cos, tl.where((feature < half)[None, :], -sin, sin)
