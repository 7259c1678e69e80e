from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from engine_svc.attention import DecodeAttention, PromptAttention
from engine_svc.kv_cache import CacheShape, KVCache
from engine_svc.model.config import ModelConfig, Rope

HEADS, KV_HEADS, SIZE = 6, 2, 8
CONFIG = ModelConfig(
    family="llama",
    vocabulary_size=10,
    layers=2,
    hidden_size=HEADS * SIZE,
    intermediate_size=8,
    heads=HEADS,
    kv_heads=KV_HEADS,
    head_size=SIZE,
    norm_eps=1e-5,
    context_tokens=64,
    tied_embeddings=False,
    rope=Rope(10_000.0),
)
LENGTHS = [1, 17, 4, 33]
# Blocks in no order, as they are after some traffic.
BLOCKS = [(9,), (3, 8), (1,), (5, 2, 7)]


def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Causal attention of one sequence by its definition: [tokens, heads, size]."""
    k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / SIZE**0.5
    allowed = torch.ones(scores.shape[-2:], dtype=torch.bool).tril(scores.shape[-1] - len(q))
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def cache() -> KVCache:
    shape = CacheShape(total_blocks=9, block_tokens=16, max_sequences=4, max_context_tokens=64)
    made = KVCache(CONFIG, shape, torch.device("cpu"), torch.float32)
    for place, blocks in enumerate(BLOCKS):
        made.assign(place, blocks)
    return made


def slots(made: KVCache, place: int, *positions: int) -> Tensor:
    at = np.array(positions, dtype=np.int64)
    return torch.from_numpy(made.slots(np.full_like(at, place), at))


def random_qkv(tokens: int) -> tuple[Tensor, Tensor, Tensor]:
    return (
        torch.randn(tokens, HEADS, SIZE),
        torch.randn(tokens, KV_HEADS, SIZE),
        torch.randn(tokens, KV_HEADS, SIZE),
    )


@pytest.mark.parametrize("together", [False, True], ids=["one by one", "padded"])
def test_prompts_of_mixed_lengths_attend_each_to_itself(together: bool) -> None:
    made = cache()
    q, k, v = random_qkv(sum(LENGTHS))
    where = torch.cat([slots(made, place, *range(n)) for place, n in enumerate(LENGTHS)])
    attention = PromptAttention(made, where, LENGTHS, together=together)
    attended = torch.split(attention(1, q, k, v), LENGTHS)
    parts = zip(*(torch.split(t, LENGTHS) for t in (q, k, v)), strict=True)
    for found, part in zip(attended, parts, strict=True):
        torch.testing.assert_close(found, plain(*part))


def test_new_tokens_attend_to_the_cached_ones_of_their_own_sequence() -> None:
    made = cache()
    histories = [random_qkv(length) for length in LENGTHS]
    for place, (_, k, v) in enumerate(histories):
        made.store(1, slots(made, place, *range(len(k) - 1)), k[:-1], v[:-1])
    rows = [3, 0, 2, 1]
    lengths = torch.tensor([LENGTHS[row] for row in rows])
    new = torch.cat([slots(made, row, LENGTHS[row] - 1) for row in rows])
    tables = made.tables(torch.tensor(rows), int(lengths.max()))
    q, k, v = (torch.stack([histories[row][i][-1] for row in rows]) for i in range(3))
    attended = DecodeAttention(made, new, tables, lengths)(1, q, k, v)
    for found, row in zip(attended, rows, strict=True):
        last, keys, values = histories[row]
        torch.testing.assert_close(found, plain(last[-1:], keys, values)[0])


def test_clearing_blocks_leaves_the_others() -> None:
    made = cache()
    made.keys.fill_(1.0)
    made.values.fill_(1.0)
    made.clear([2, 5])
    assert made.keys.sum((0, 2, 3, 4)).nonzero().flatten().tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    assert made.values[:, [2, 5]].count_nonzero() == 0
