from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from engine_svc.model.linear import KEPT_TWICE, WIDE_ROWS, linear


@pytest.mark.parametrize("out_features", [8, WIDE_ROWS])
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_in_any_layout_the_product_is_the_same(
    out_features: int, rows: int, with_bias: bool, dtype: torch.dtype
) -> None:
    weight = torch.randn(out_features, 24).to(dtype)
    bias = torch.randn(out_features).to(dtype) if with_bias else None
    inputs = torch.randn(rows, 24).to(dtype)
    expected = functional.linear(inputs, weight, bias)
    close = 1e-5 if dtype == torch.float32 else 3e-2
    torch.testing.assert_close(linear(weight, bias)(inputs), expected, rtol=close, atol=close)


def test_a_matrix_too_large_to_keep_twice_multiplies_one_row_packed() -> None:
    weight = torch.randn(KEPT_TWICE // 1024 + 1, 1024)
    row = torch.randn(1, 1024)
    expected = functional.linear(row, weight)
    torch.testing.assert_close(linear(weight)(row), expected, rtol=1e-4, atol=1e-4)
