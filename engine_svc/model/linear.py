"""Matrix products with a model's weights on CPU, in the layout that suits the rows.

It knows no model. oneDNN multiplies faster with a matrix that was packed beforehand: in
bfloat16 always (by a third, with AMX), in float32 where a batch meets a wide one (8 rows
by 576 × 49,152: 4.4 against 10.3 ms on two AVX-512 cores). One row in float32 is fastest
as a plain matrix-vector product. Called by `torch_ops`.
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor
from torch.nn import functional

from engine_svc.model.ops import Rows

WIDE_ROWS: Final = 2048
# The batch for which oneDNN chooses its layout; measured best for 1 to 64 rows.
PACKED_FOR_ROWS: Final = 64
# A matrix up to this many numbers is kept in both layouts: for small models the speed of a
# single row is worth the memory.
KEPT_TWICE: Final = 2**22


def linear(weight: Tensor, bias: Tensor | None = None) -> Rows:
    """A product with `weight` [out, in]; may keep a packed copy in its place."""
    if weight.device.type != "cpu" or not _can_pack():
        return lambda rows: functional.linear(rows, weight, bias)
    if weight.dtype == torch.bfloat16:
        return _packed(weight, bias)
    if weight.dtype != torch.float32:
        return lambda rows: functional.linear(rows, weight, bias)
    return _in_float32(weight, bias)


def _in_float32(weight: Tensor, bias: Tensor | None) -> Rows:
    """By the number of rows: a matrix-vector product, or one of matrices."""
    wide = weight.shape[0] >= WIDE_ROWS
    many = _packed(weight, bias) if wide else lambda rows: functional.linear(rows, weight, bias)
    if wide and weight.numel() > KEPT_TWICE:
        return many

    def multiply(rows: Tensor) -> Tensor:
        if len(rows) != 1:
            return many(rows)
        if bias is None:
            return torch.mv(weight, rows[0])[None]
        return torch.addmv(bias, weight, rows[0])[None]

    return multiply


def _can_pack() -> bool:
    return bool(torch.backends.mkldnn.is_available())  # type: ignore[no-untyped-call]


def _packed(weight: Tensor, bias: Tensor | None) -> Rows:
    # The operators that torch.compile's own freezing emits; they have no public name.
    operators: Any = torch.ops.mkldnn
    packed = operators._reorder_linear_weight(weight.contiguous(), PACKED_FOR_ROWS)
    product = operators._linear_pointwise.default

    def multiply(rows: Tensor) -> Tensor:
        return cast(Tensor, product(rows, packed, bias, "none", [], ""))

    return multiply
