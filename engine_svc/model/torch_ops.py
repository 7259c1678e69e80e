"""The model's operations in plain PyTorch: the reference, and what runs on CPU."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional

from engine_svc.model.linear import linear
from engine_svc.model.ops import AddedTo, Rows


class TorchOps:
    """See `engine_svc.model.ops.Ops`."""

    def __init__(self, norm_eps: float) -> None:
        self._norm_eps = norm_eps

    def normed(self, norm: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rows:
        """RMSNorm, then a product."""
        product = linear(weight, bias)
        return lambda rows: product(self._norm(rows, norm))

    def gated(self, norm: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rows:
        """RMSNorm, a product, SiLU of its first half times its second."""
        product = linear(weight, bias)

        def apply(rows: Tensor) -> Tensor:
            gate, up = product(self._norm(rows, norm)).chunk(2, -1)
            return functional.silu(gate) * up

        return apply

    def added(self, weight: Tensor, bias: Tensor | None = None) -> AddedTo:
        """A product, added to a residual."""
        product = linear(weight, bias)
        return lambda rows, residual: residual + product(rows)

    def prepare(self) -> None:
        """Nothing is to be found out."""

    def _norm(self, rows: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(rows, weight.shape, weight, self._norm_eps)
