"""The model's operations on CUDA: joined kernels for few rows, cuBLAS for many.

Built by `engine_svc.model.ops`; which of the two is `choice`'s business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional
from triton.runtime.errors import OutOfResources

from engine_svc.kernels.choice import Choice, DoesNotFit, Trial
from engine_svc.kernels.linear import fused_linear
from engine_svc.kernels.pointwise import rms_norm, silu_gated
from engine_svc.kernels.tiles import Tile
from engine_svc.model.ops import AddedTo, Rows

MOST_TIMED = 32
"""Layers whose weights take part in a trial: enough to fill what caches would hide."""


@dataclass(frozen=True, slots=True)
class _Product:
    """One product of one layer, with what is joined to it."""

    weight: Tensor
    bias: Tensor | None
    norm: Tensor | None
    norm_eps: float
    gated: bool
    adds: bool

    @property
    def kind(self) -> tuple[object, ...]:
        """Products of a kind share a choice."""
        return self.weight.shape, self.norm is not None, self.gated, self.adds

    @property
    def out(self) -> int:
        """Features of a result."""
        return self.weight.shape[0] // (2 if self.gated else 1)

    def __call__(self, rows: Tensor, residual: Tensor | None, tile: Tile | None) -> Tensor:
        """Of rows [n, in]; added to `residual` in its place where this one adds."""
        if tile is None:
            return self._apart(rows, residual)
        return fused_linear(
            rows,
            self.weight,
            tile,
            norm=self.norm,
            eps=self.norm_eps,
            bias=self.bias,
            gated=self.gated,
            residual=residual,
        )

    def _apart(self, rows: Tensor, residual: Tensor | None) -> Tensor:
        if self.norm is not None:
            rows = rms_norm(rows, self.norm, self.norm_eps)
        if residual is not None:
            if self.bias is not None:
                residual = residual.add_(self.bias)
            return residual.addmm_(rows, self.weight.t())
        product = functional.linear(rows, self.weight, self.bias)
        return silu_gated(product) if self.gated else product


class CudaOps:
    """See `engine_svc.model.ops.Ops`."""

    def __init__(self, norm_eps: float) -> None:
        self._eps = norm_eps
        self._choices: dict[tuple[object, ...], Choice] = {}
        self._products: dict[tuple[object, ...], list[_Product]] = {}

    def normed(self, norm: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rows:
        """RMSNorm, then a product."""
        product = _Product(weight, bias, norm, self._eps, gated=False, adds=False)
        choice = self._choice(product)
        return lambda rows: product(rows, None, choice.tile(rows))

    def gated(self, norm: Tensor, weight: Tensor, bias: Tensor | None = None) -> Rows:
        """RMSNorm, a product, SiLU of its first half times its second."""
        product = _Product(weight, bias, norm, self._eps, gated=True, adds=False)
        choice = self._choice(product)
        return lambda rows: product(rows, None, choice.tile(rows))

    def added(self, weight: Tensor, bias: Tensor | None = None) -> AddedTo:
        """A product, added to a residual in its place."""
        product = _Product(weight, bias, None, self._eps, gated=False, adds=True)
        choice = self._choice(product)
        return lambda rows, residual: product(rows, residual, choice.tile(rows))

    @torch.inference_mode()
    def prepare(self) -> None:
        """Times what has to be timed."""
        for kind, choice in self._choices.items():
            products = self._products[kind][:MOST_TIMED]
            if products[0].weight.dtype == torch.bfloat16:
                choice.measure(_trial_of(products))

    def _choice(self, product: _Product) -> Choice:
        self._products.setdefault(product.kind, []).append(product)
        inner = product.weight.shape[1]
        return self._choices.setdefault(product.kind, Choice(product.out, inner))


def _trial_of(products: list[_Product]) -> Callable[[int], Trial]:
    def of_rows(count: int) -> Trial:
        weight = products[0].weight
        rows = weight.new_zeros(count, weight.shape[1])
        residual = weight.new_zeros(count, products[0].out) if products[0].adds else None

        def of_tile(tile: Tile | None) -> Callable[[], object]:
            def work() -> object:
                try:
                    return [product(rows, residual, tile) for product in products]
                except OutOfResources as error:
                    raise DoesNotFit(str(error)) from error

            return work

        return of_tile

    return of_rows
