"""Matrix products with a model's weights, in the layout that suits the device.

It knows no model. On CPU oneDNN multiplies a batch of a few rows with a wide matrix
in half the time when the matrix was packed beforehand (8 rows by 576 × 49,152: 4.4
against 10.3 ms on two AVX-512 cores); narrow ones gain nothing.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional

Linear = Callable[[Tensor], Tensor]
"""[rows, in] → [rows, out]."""

WIDE_ROWS: Final = 2048
# The batch for which oneDNN chooses its layout; measured best for 1 to 64 rows.
PACKED_FOR_ROWS: Final = 64


def linear(weight: Tensor, bias: Tensor | None = None) -> Linear:
    """A product with `weight` [out, in]; may keep a packed copy in its place."""
    if _packs(weight):
        return _packed(weight, bias)
    return lambda rows: functional.linear(rows, weight, bias)


def _packs(weight: Tensor) -> bool:
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and weight.shape[0] >= WIDE_ROWS
        and torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    )


def _packed(weight: Tensor, bias: Tensor | None) -> Linear:
    # The operators that torch.compile's own freezing emits; they have no public name.
    operators: Any = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)
    product = operators._linear_pointwise.default

    def multiply(rows: Tensor) -> Tensor:
        return cast(Tensor, product(rows, packed, bias, "none", [], ""))

    return multiply
