from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine_svc.attention import ChunkTables, HeadRules, RowTables, step_attention
from engine_svc.kv_cache import CacheShape, KVCache
from engine_svc.model.config import ModelConfig, Rope
from engine_svc.model.rope import RotaryTable, Rotation, rotate

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


def plain(q: Tensor, k: Tensor, v: Tensor, window: int = 999) -> Tensor:
    """Causal attention of a sequence's last tokens by its definition: [tokens, heads, size]."""
    k, v = (t.repeat_interleave(HEADS // KV_HEADS, 1) for t in (k, v))
    scores = torch.einsum("qhd,khd->hqk", q, k) / SIZE**0.5
    diagonal = scores.shape[-1] - len(q)
    square = torch.ones(scores.shape[-2:], dtype=torch.bool)
    allowed = square.tril(diagonal) & square.triu(diagonal - window + 1)
    weights = scores.masked_fill(~allowed, float("-inf")).softmax(-1)
    return torch.einsum("hqk,khd->qhd", weights, v)


def cache() -> KVCache:
    shape = CacheShape(total_blocks=9, block_tokens=16, max_sequences=4, max_context_tokens=64)
    return KVCache(CONFIG, shape, torch.device("cpu"), torch.float32)


def slots(place: int, *positions: int) -> Tensor:
    return torch.tensor([BLOCKS[place][at // 16] * 16 + at % 16 for at in positions])


def block_tables(*places: int) -> Tensor:
    return torch.tensor([[*BLOCKS[p], 0, 0, 0][:4] for p in places], dtype=torch.int32)


ROTARY = RotaryTable(CONFIG.rope, SIZE, 64, torch.device("cpu"))
NORMS = (torch.rand(SIZE) + 0.5, torch.rand(SIZE) + 0.5)


@dataclass
class Story:
    """A sequence whose tokens are projected already."""

    place: int
    projected: Tensor
    """[tokens, heads + 2 · kv_heads, head_size]."""

    def qkv(self, begin: int, end: int) -> Tensor:
        return self.projected[begin:end].flatten(1)

    def expected(self, begin: int, end: int, rules: HeadRules) -> Tensor:
        """What the tokens begin … end − 1 get."""
        q, k, v = self.projected[:end].split_with_sizes((HEADS, KV_HEADS, KV_HEADS), 1)
        if rules.query_norm is not None and rules.key_norm is not None:
            q, k = (
                functional.rms_norm(part, (SIZE,), norm, rules.norm_eps)
                for part, norm in ((q, rules.query_norm), (k, rules.key_norm))
            )
        rotation = ROTARY.at(torch.arange(end))
        q, k = rotate(q, rotation), rotate(k, rotation)
        return plain(q[begin:], k, v, rules.window_tokens or 999).flatten(1)


def stories() -> list[Story]:
    parts = HEADS + 2 * KV_HEADS
    return [Story(i, torch.randn(length, parts, SIZE)) for i, length in enumerate(LENGTHS)]


@dataclass(frozen=True)
class Part:
    """The tokens begin … end − 1 of a story, all before them cached."""

    story: Story
    begin: int
    end: int


def run(made: KVCache, chunks: list[Part], rows: list[Part], rules: HeadRules) -> list[Tensor]:
    """One layer's attention of one step; the result of each part."""
    parts = chunks + rows
    where = torch.cat([slots(p.story.place, *range(p.begin, p.end)) for p in parts])
    qkv = torch.cat([p.story.qkv(p.begin, p.end) for p in parts])
    positions = torch.cat([torch.arange(p.begin, p.end) for p in parts])
    lengths = [p.end - p.begin for p in parts]

    def tables(of: list[Part]) -> tuple[Tensor, Tensor]:
        ends = torch.tensor([p.end for p in of], dtype=torch.int32)
        return block_tables(*(p.story.place for p in of)), ends

    chunk_tables = row_tables = None
    if chunks:
        wide, contexts = tables(chunks)
        starts = torch.tensor(np.cumsum([0, *lengths[: len(chunks)]]), dtype=torch.int32)
        longest = (max(lengths), int(contexts.max()))
        chunk_tables = ChunkTables(starts, contexts, wide, *longest)
    if rows:
        row_tables = RowTables(*tables(rows))
    attention = step_attention(made, where, chunk_tables, row_tables)
    found = attention(1, qkv, Rotation(ROTARY, positions), rules)
    return list(torch.split(found, lengths))


RULES = [
    HeadRules(HEADS),
    HeadRules(HEADS, window_tokens=7),
    HeadRules(HEADS, query_norm=NORMS[0], key_norm=NORMS[1], norm_eps=1e-6),
]
every_rule = pytest.mark.parametrize("rules", RULES, ids=["plain", "window", "norms"])


def check(found: list[Tensor], parts: list[Part], rules: HeadRules) -> None:
    for attended, part in zip(found, parts, strict=True):
        expected = part.story.expected(part.begin, part.end, rules)
        torch.testing.assert_close(attended, expected, rtol=1e-5, atol=1e-5)


@every_rule
def test_prompts_of_mixed_lengths_attend_each_to_itself(rules: HeadRules) -> None:
    parts = [Part(s, 0, len(s.projected)) for s in stories()]
    check(run(cache(), parts, [], rules), parts, rules)


@every_rule
def test_a_chunk_attends_to_what_was_cached_before_it(rules: HeadRules) -> None:
    made = cache()
    told = stories()
    run(made, [Part(told[3], 0, 20), Part(told[1], 0, 16)], [], rules)
    parts = [Part(told[1], 16, 17), Part(told[3], 20, 31)]
    check(run(made, parts, [], rules), parts, rules)


@every_rule
def test_new_tokens_attend_to_the_cached_ones_of_their_own_sequence(rules: HeadRules) -> None:
    made = cache()
    told = stories()
    long = [s for s in told if len(s.projected) > 1]
    run(made, [Part(s, 0, len(s.projected) - 1) for s in long], [], rules)
    parts = [Part(told[i], LENGTHS[i] - 1, LENGTHS[i]) for i in (3, 0, 2, 1)]
    check(run(made, [], parts, rules), parts, rules)


def test_chunks_and_rows_share_a_step() -> None:
    made = cache()
    told = stories()
    run(made, [Part(told[3], 0, 32)], [], RULES[0])
    chunks, rows = [Part(told[1], 0, 9), Part(told[2], 0, 4)], [Part(told[3], 32, 33)]
    check(run(made, chunks, rows, RULES[0]), chunks + rows, RULES[0])


def test_a_padding_row_changes_nothing_and_spoils_no_other() -> None:
    made = cache()
    story = stories()[2]
    run(made, [Part(story, 0, 3)], [], RULES[0])
    before = made.keys.clone()
    where = torch.cat([torch.tensor([-1]), slots(2, 3)])
    tables = block_tables(0, 2)
    rows = RowTables(tables, torch.tensor([0, 4], dtype=torch.int32))
    attention = step_attention(made, where, None, rows)
    qkv = torch.cat([torch.ones_like(story.qkv(0, 1)), story.qkv(3, 4)])
    found = attention(1, qkv, Rotation(ROTARY, torch.tensor([0, 3])), RULES[0])
    torch.testing.assert_close(found[1:], story.expected(3, 4, RULES[0]), rtol=1e-5, atol=1e-5)
    changed = (made.keys != before).flatten(3).any(-1)[1].nonzero().tolist()
    assert changed == [[1, 3]]  # block 1, the one cell


def test_clearing_blocks_leaves_the_others() -> None:
    made = cache()
    made.keys.fill_(1.0)
    made.values.fill_(1.0)
    made.clear([2, 5])
    assert made.keys.sum((0, 2, 3, 4)).nonzero().flatten().tolist() == [0, 1, 3, 4, 6, 7, 8, 9]
    assert made.values[:, [2, 5]].count_nonzero() == 0
