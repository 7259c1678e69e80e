from __future__ import annotations

import pytest
import torch
from torch.nn import functional

from engine_svc.model.linear import WIDE_ROWS, linear


@pytest.mark.parametrize("out_features", [8, WIDE_ROWS])
@pytest.mark.parametrize("rows", [1, 3, 100])
@pytest.mark.parametrize("with_bias", [False, True])
def test_packed_or_not_the_product_is_the_same(
    out_features: int, rows: int, with_bias: bool
) -> None:
    weight = torch.randn(out_features, 24)
    bias = torch.randn(out_features) if with_bias else None
    inputs = torch.randn(rows, 24)
    expected = functional.linear(inputs, weight, bias)
    torch.testing.assert_close(linear(weight, bias)(inputs), expected, rtol=1e-5, atol=1e-5)
