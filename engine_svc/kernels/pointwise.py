"""RMSNorm and SiLU(gate) · up on their own, around cuBLAS's products of many rows.

One program a row or a part of one; called by `cuda_ops`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_svc.kernels.launch import Kernel
from engine_svc.kernels.waiting import wait

GATED_PART = 1024


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _norm_kernel(  # type: ignore[no-untyped-def]
    x_ptr, norm_ptr, out_ptr, eps,
    SIZE: tl.constexpr, PADDED: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    cell = tl.program_id(0).to(tl.int64) * SIZE
    feature = tl.arange(0, PADDED)
    is_feature = feature < SIZE
    norm = tl.load(norm_ptr + feature, mask=is_feature, other=0.0).to(tl.float32)
    wait(OVERLAP)
    x = tl.load(x_ptr + cell + feature, mask=is_feature, other=0.0).to(tl.float32)
    factor = tl.rsqrt(tl.sum(x * x, 0) / SIZE + eps)
    result = (x * factor * norm).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + cell + feature, result, mask=is_feature)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _gated_kernel(  # type: ignore[no-untyped-def]
    x_ptr, out_ptr, SIZE: tl.constexpr, PART: tl.constexpr, OVERLAP: tl.constexpr
):
    row = tl.program_id(0).to(tl.int64)
    feature = tl.program_id(1) * PART + tl.arange(0, PART)
    is_feature = feature < SIZE
    wait(OVERLAP)
    cells = x_ptr + row * 2 * SIZE + feature
    gate = tl.load(cells, mask=is_feature, other=0.0).to(tl.float32)
    up = tl.load(cells + SIZE, mask=is_feature, other=0.0).to(tl.float32)
    result = (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * SIZE + feature, result, mask=is_feature)


_norm, _gated = Kernel(_norm_kernel), Kernel(_gated_kernel)


def rms_norm(rows: Tensor, norm: Tensor, eps: float) -> Tensor:
    """RMSNorm of rows [n, size], contiguous, in fp32; the dtype of the rows."""
    out = torch.empty_like(rows)
    size = rows.shape[1]
    padded = triton.next_power_of_2(size)
    constants = {"SIZE": size, "PADDED": padded}
    warps = min(8, max(1, padded // 512))
    _norm.launch((len(rows), 1, 1), (rows, norm, out, eps), constants, warps=warps)
    return out


def silu_gated(rows: Tensor) -> Tensor:
    """silu(gate) · up of rows [n, gate and up], contiguous, in fp32: [n, size]."""
    size = rows.shape[1] // 2
    out = torch.empty(rows.shape[0], size, dtype=rows.dtype, device=rows.device)
    part = min(GATED_PART, triton.next_power_of_2(size))
    grid = (len(rows), triton.cdiv(size, part), 1)
    _gated.launch(grid, (rows, out), {"SIZE": size, "PART": part})
    return out
