"""The operations that the model is made of, in two kinds behind one shape.

`torch_ops` is the reference and runs everywhere; `engine_svc.kernels.cuda_ops` joins
what can be joined into one kernel. Called by `decoder` when a model is built.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

Rows = Callable[[Tensor], Tensor]
"""[rows, in] → [rows, out]."""

AddedTo = Callable[[Tensor, Tensor], Tensor]
"""[rows, in], residual [rows, out] → their sum [rows, out]; may be written over the residual."""


class Ops(Protocol):
    """Makes the operations of one model from its weights."""

    def normed(self, norm: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rows:
        """RMSNorm, then a product with `weight` [out, in]."""

    def gated(self, norm: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rows:
        """RMSNorm, a product with [gate; up] [2 · out, in], and silu(gate) · up of it."""

    def added(self, weight: Tensor, bias: Tensor | None = None) -> AddedTo:
        """A product with `weight` [out, in], added to a residual."""

    def prepare(self) -> None:
        """Called once, when all are made; may take a moment to find what is fastest."""


def ops_for(device: torch.device, norm_eps: float) -> Ops:
    """The operations for a device."""
    if device.type == "cuda":
        from engine_svc.kernels.cuda_ops import CudaOps  # Triton comes with CUDA builds only

        return CudaOps(norm_eps)
    from engine_svc.model.torch_ops import TorchOps

    return TorchOps(norm_eps)
