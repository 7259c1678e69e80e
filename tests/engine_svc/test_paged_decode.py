"""The Triton decode kernel against the same sum in float64."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA"),
]

ROWS, LONGEST_TOKENS, BLOCK_TOKENS = 37, 700, 16


@pytest.mark.parametrize(("heads", "kv_heads", "head_size"), [(9, 3, 64), (32, 8, 128), (4, 4, 48)])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-6), (torch.bfloat16, 5e-3)])
def test_kernel_equals_attention_in_float64(
    heads: int, kv_heads: int, head_size: int, dtype: torch.dtype, tolerance: float
) -> None:
    from engine_svc import paged_decode

    torch.manual_seed(0)
    columns = -(-LONGEST_TOKENS // BLOCK_TOKENS)
    blocks = ROWS * columns
    lengths = torch.randint(1, LONGEST_TOKENS, (ROWS,), device="cuda")
    lengths[:3] = torch.tensor([1, 64, 65])  # one token, one tile, one more than a tile
    tables = (torch.randperm(blocks, device="cuda") + 1).view(ROWS, columns)
    shape = (blocks + 1, BLOCK_TOKENS, kv_heads, head_size)
    keys = torch.randn(shape, device="cuda", dtype=dtype)
    values = torch.randn_like(keys)
    q = torch.randn(ROWS, heads, head_size, device="cuda", dtype=dtype)
    found = paged_decode.attend(q, keys, values, tables, lengths).double()
    wanted = in_float64(q, keys, values, tables, lengths)
    assert (found - wanted).norm() / wanted.norm() < tolerance


def in_float64(q: Tensor, keys: Tensor, values: Tensor, tables: Tensor, lengths: Tensor) -> Tensor:
    group = q.shape[1] // keys.shape[2]
    rows = []
    for row, length in enumerate(lengths.tolist()):
        k = keys[tables[row]].flatten(0, 1)[:length].double().repeat_interleave(group, 1)
        v = values[tables[row]].flatten(0, 1)[:length].double().repeat_interleave(group, 1)
        scores = torch.einsum("hd,nhd->hn", q[row].double(), k) * q.shape[2] ** -0.5
        rows.append(torch.einsum("hn,nhd->hd", scores.softmax(-1), v))
    return torch.stack(rows)
