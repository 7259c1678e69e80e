"""The model's operations on CUDA: joined kernels for few rows, cuBLAS for many.

In bf16; fp16 could overflow where a row is normed after its product, and fp32 is for
comparisons. Built by `engine_svc.model.ops`.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from engine_svc.kernels.linear import fused_linear
from engine_svc.kernels.pointwise import rms_norm, silu_gated
from engine_svc.kernels.tiles import Tile, tile_for
from engine_svc.model.ops import AddedTo, Rows


class CudaOps:
    """See `engine_svc.model.ops.Ops`."""

    def __init__(self, norm_eps: float) -> None:
        self._eps = norm_eps

    def normed(self, norm: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rows:
        """RMSNorm, then a product."""

        def apply(rows: Tensor) -> Tensor:
            if tile := _tile(rows, weight.shape[0]):
                return fused_linear(rows, weight, tile, norm=norm, eps=self._eps, bias=bias)
            return functional.linear(rms_norm(rows, norm, self._eps), weight, bias)

        return apply

    def gated(self, norm: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rows:
        """RMSNorm, a product, SiLU of its first half times its second."""

        def apply(rows: Tensor) -> Tensor:
            if tile := _tile(rows, weight.shape[0] // 2):
                return fused_linear(
                    rows, weight, tile, norm=norm, eps=self._eps, bias=bias, gated=True
                )
            return silu_gated(functional.linear(rms_norm(rows, norm, self._eps), weight, bias))

        return apply

    def added(self, weight: Tensor, bias: Tensor | None = None) -> AddedTo:
        """A product, added to a residual in its place."""
        transposed = weight.t()

        def apply(rows: Tensor, residual: Tensor) -> Tensor:
            if tile := _tile(rows, weight.shape[0]):
                return fused_linear(rows, weight, tile, bias=bias, residual=residual)
            if bias is not None:
                residual = residual.add_(bias)
            return residual.addmm_(rows, transposed)

        return apply


def _tile(rows: Tensor, out: int) -> Tile | None:
    if rows.dtype != torch.bfloat16:
        return None
    return tile_for(len(rows), out, rows.shape[1])
