"""Products of a few rows with a weight, joined with what comes before and after.

Before: RMSNorm, whose division is one factor a row and so can follow the product. After:
a bias, SiLU(gate) · up, or the addition to a residual. Two kernels: tensor cores over a
tile of rows, and plain sums for one row, which only has to read the weight. Which of them
and with what tile is `choice`'s business; called by `cuda_ops`.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_svc.kernels.launch import Kernel
from engine_svc.kernels.tiles import Tile
from engine_svc.kernels.waiting import prefetch_rows, wait


@triton.jit(do_not_specialize=["rows"])  # type: ignore[untyped-decorator, unused-ignore]
def _tile_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, norm_ptr, bias_ptr, out_ptr, rows, eps,
    OUT: tl.constexpr, INNER: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    TILE_ROWS: tl.constexpr, TILE_OUT: tl.constexpr, TILE_INNER: tl.constexpr,
    STAGES: tl.constexpr, AHEAD: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * TILE_OUT + tl.arange(0, TILE_OUT)
    row = tl.program_id(1) * TILE_ROWS + tl.arange(0, TILE_ROWS)
    inner = tl.arange(0, TILE_INNER)
    # What is past the end reads what is there and is not stored: no masks in the loop.
    read_row = tl.where(row < rows, row, 0).to(tl.int64)
    read_column = tl.where(column < OUT, column, 0).to(tl.int64)
    x_cells = x_ptr + read_row[:, None] * INNER + inner[None, :]
    weight_rows = weight_ptr + read_column[:, None] * INNER
    weight_cells = weight_rows + inner[None, :]
    sums = tl.zeros([TILE_ROWS, TILE_OUT], tl.float32)
    up_sums = tl.zeros([TILE_ROWS, TILE_OUT], tl.float32)
    squares = tl.zeros([TILE_ROWS], tl.float32)
    prefetch_rows(weight_rows, INNER, AHEAD, OVERLAP)
    if GATED:
        prefetch_rows(weight_rows + OUT * INNER, INNER, AHEAD, OVERLAP)
    wait(OVERLAP)
    for start in tl.range(0, INNER, TILE_INNER, num_stages=STAGES):
        if INNER % TILE_INNER == 0:
            x = tl.load(x_cells + start)
            weight = tl.load(weight_cells + start)
        else:
            is_inner = (start + inner < INNER)[None, :]
            x = tl.load(x_cells + start, mask=is_inner, other=0.0)
            weight = tl.load(weight_cells + start, mask=is_inner, other=0.0)
        if NORM:
            wide = x.to(tl.float32)
            squares += tl.sum(wide * wide, 1)
            norm = tl.load(norm_ptr + start + inner, mask=start + inner < INNER, other=0.0)
            x = (wide * norm.to(tl.float32)[None, :]).to(x.dtype)
        sums = tl.dot(x, tl.trans(weight), sums, input_precision="ieee")
        if GATED:
            if INNER % TILE_INNER == 0:
                up_weight = tl.load(weight_cells + OUT * INNER + start)
            else:
                up_cells = weight_cells + OUT * INNER + start
                up_weight = tl.load(up_cells, mask=is_inner, other=0.0)
            up_sums = tl.dot(x, tl.trans(up_weight), up_sums, input_precision="ieee")
    if NORM:
        factor = tl.rsqrt(squares / INNER + eps)[:, None]
        sums *= factor
        up_sums *= factor
    if BIAS:
        sums += tl.load(bias_ptr + read_column).to(tl.float32)[None, :]
        if GATED:
            up_sums += tl.load(bias_ptr + OUT + read_column).to(tl.float32)[None, :]
    if GATED:
        sums = sums * tl.sigmoid(sums) * up_sums
    cells = out_ptr + row.to(tl.int64)[:, None] * OUT + column[None, :]
    is_cell = (row < rows)[:, None] & (column < OUT)[None, :]
    if ADDED:
        sums += tl.load(cells, mask=is_cell, other=0.0).to(tl.float32)
    tl.store(cells, sums.to(out_ptr.dtype.element_ty), mask=is_cell)


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _row_kernel(  # type: ignore[no-untyped-def]
    x_ptr, weight_ptr, norm_ptr, bias_ptr, out_ptr, eps,
    OUT: tl.constexpr, INNER: tl.constexpr,
    NORM: tl.constexpr, BIAS: tl.constexpr, GATED: tl.constexpr, ADDED: tl.constexpr,
    TILE_OUT: tl.constexpr, TILE_INNER: tl.constexpr,
    STAGES: tl.constexpr, AHEAD: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * TILE_OUT + tl.arange(0, TILE_OUT)
    row = tl.program_id(1).to(tl.int64)
    inner = tl.arange(0, TILE_INNER)
    is_column = column < OUT
    weight_cells = weight_ptr + tl.where(is_column, column, 0).to(tl.int64)[:, None] * INNER
    sums = tl.zeros([TILE_OUT, TILE_INNER], tl.float32)
    up_sums = tl.zeros([TILE_OUT, TILE_INNER], tl.float32)
    squares = tl.zeros([TILE_INNER], tl.float32)
    prefetch_rows(weight_cells, INNER, AHEAD, OVERLAP)
    if GATED:
        prefetch_rows(weight_cells + OUT * INNER, INNER, AHEAD, OVERLAP)
    wait(OVERLAP)
    for start in tl.range(0, INNER, TILE_INNER, num_stages=STAGES):
        at = start + inner
        is_inner = at < INNER
        weight = tl.load(weight_cells + at[None, :], mask=is_inner[None, :], other=0.0)
        x = tl.load(x_ptr + row * INNER + at, mask=is_inner, other=0.0).to(tl.float32)
        if NORM:
            squares += x * x
            x *= tl.load(norm_ptr + at, mask=is_inner, other=0.0).to(tl.float32)
        sums += weight.to(tl.float32) * x[None, :]
        if GATED:
            up_cells = weight_cells + OUT * INNER + at[None, :]
            up_weight = tl.load(up_cells, mask=is_inner[None, :], other=0.0)
            up_sums += up_weight.to(tl.float32) * x[None, :]
    total = tl.sum(sums, 1)
    up_total = tl.sum(up_sums, 1)
    if NORM:
        factor = tl.rsqrt(tl.sum(squares, 0) / INNER + eps)
        total *= factor
        up_total *= factor
    if BIAS:
        total += tl.load(bias_ptr + column, mask=is_column, other=0.0).to(tl.float32)
        if GATED:
            up_bias = tl.load(bias_ptr + OUT + column, mask=is_column, other=0.0)
            up_total += up_bias.to(tl.float32)
    if GATED:
        total = total * tl.sigmoid(total) * up_total
    cells = out_ptr + row * OUT + column
    if ADDED:
        total += tl.load(cells, mask=is_column, other=0.0).to(tl.float32)
    tl.store(cells, total.to(out_ptr.dtype.element_ty), mask=is_column)


_tile, _row = Kernel(_tile_kernel), Kernel(_row_kernel)


def fused_linear(
    rows: Tensor,
    weight: Tensor,
    tile: Tile,
    *,
    norm: Tensor | None = None,
    eps: float = 0.0,
    bias: Tensor | None = None,
    gated: bool = False,
    residual: Tensor | None = None,
) -> Tensor:
    """A product of rows [n, in] with `weight` [out, in], sums in fp32; all contiguous.

    `norm` [in]: the rows are RMS-normed first. `gated`: `weight` is [gate; up] [2 · out, in].
    `residual` [n, out] is added to and returned.
    """
    count, inner = rows.shape
    out_size = weight.shape[0] // (2 if gated else 1)
    out = residual
    if out is None:
        out = torch.empty(count, out_size, dtype=rows.dtype, device=rows.device)
    shape = {
        "OUT": out_size,
        "INNER": inner,
        "NORM": norm is not None,
        "BIAS": bias is not None,
        "GATED": gated,
        "ADDED": residual is not None,
        "TILE_OUT": tile.out,
        "TILE_INNER": tile.inner,
        "STAGES": tile.stages,
        "AHEAD": min(tile.ahead, triton.next_power_of_2(inner)),
    }
    options: Any = {"warps": tile.warps, "overlapped": tile.overlap}
    columns = triton.cdiv(out_size, tile.out)
    if tile.rows == 1:
        _row.launch((columns, count, 1), (rows, weight, norm, bias, out, eps), shape, **options)
    else:
        shape["TILE_ROWS"] = tile.rows
        grid = (columns, triton.cdiv(count, tile.rows), 1)
        _tile.launch(grid, (rows, weight, norm, bias, out, count, eps), shape, **options)
    return out
