"""The CUDA kernels against plain PyTorch.

On a GPU, and without one in Triton's interpreter: TRITON_INTERPRET=1 pytest -m gpu.
"""

from __future__ import annotations

import dataclasses
import os
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from engine_svc.attention import ChunkTables, HeadRules, RowTables
from engine_svc.kv_cache import CacheShape, KVCache
from engine_svc.model.config import ModelConfig, Rope
from engine_svc.model.rope import RotaryTable, Rotation
from engine_svc.torch_attention import TorchAttention

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (torch.cuda.is_available() or INTERPRETED), reason="needs CUDA or the interpreter"
    ),
    pytest.mark.timeout(300),
]
DEVICE = torch.device("cpu" if INTERPRETED else "cuda")
DTYPES = [torch.float32] if INTERPRETED else [torch.float32, torch.bfloat16]
EPS = 1e-5
CLOSE = {torch.float32: 1e-5, torch.bfloat16: 8e-3}
"""Relative error that rounding explains, by dtype: bf16 has 8 bits."""

every_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda d: str(d).split(".")[1])


def drawn(*sizes: int, dtype: torch.dtype, scale: float = 1.0) -> Tensor:
    return (torch.randn(sizes, device=DEVICE) * scale).to(dtype)


def check(found: Tensor, expected: Tensor, dtype: torch.dtype) -> None:
    """The largest error, against the size of what is expected."""
    error = (found.double() - expected.double()).abs().max() / expected.double().abs().max()
    assert found.dtype == dtype
    assert float(error) < CLOSE[dtype]


def normed(rows: Tensor, norm: Tensor) -> Tensor:
    return functional.rms_norm(rows.double(), norm.shape, norm.double(), EPS)


# (rows of a program, output and input features, stages), and whether there is a bias: one row,
# one row in steps, a tile in steps that do not divide the input, a tile in steps that do.
TILES = [((1, 4, 256, 1), True), ((1, 8, 64, 2), False), ((16, 16, 128, 3), True)]
TILES += [((32, 32, 64, 2), False)]


@pytest.mark.parametrize(("cut", "biased"), TILES, ids=str)
@pytest.mark.parametrize("rows", [1, 5, 33])
def test_joined_products_are_those_of_float64(
    rows: int, cut: tuple[int, int, int, int], biased: bool
) -> None:
    from engine_svc.kernels.linear import fused_linear
    from engine_svc.kernels.tiles import Tile

    dtype = DTYPES[-1]
    tile = Tile(*cut[:3], warps=4, stages=cut[3], overlap=cut[0] == 1, ahead=256)
    torch.manual_seed(0)
    inner, out = 192, 40
    x, residual = drawn(rows, inner, dtype=dtype), drawn(rows, out, dtype=dtype)
    norm = drawn(inner, dtype=dtype, scale=0.1) + 1
    weight = drawn(2 * out, inner, dtype=dtype, scale=0.1)
    bias = drawn(2 * out, dtype=dtype) if biased else None
    wide_bias = bias.double() if bias is not None else torch.zeros_like(weight[:, 0]).double()
    both = normed(x, norm) @ weight.double().t() + wide_bias
    gate, up = both.chunk(2, -1)
    half, half_bias = weight[:out], bias[:out] if bias is not None else None
    check(fused_linear(x, half, tile, norm=norm, eps=EPS, bias=half_bias), gate, dtype)
    found = fused_linear(x, weight, tile, norm=norm, eps=EPS, bias=bias, gated=True)
    check(found, functional.silu(gate) * up, dtype)
    expected = residual.double() + x.double() @ half.double().t() + wide_bias[:out]
    check(fused_linear(x, half, tile, bias=half_bias, residual=residual), expected, dtype)


@every_dtype
@pytest.mark.parametrize("size", [24, 576])
def test_norm_and_gate_alone_are_those_of_float64(size: int, dtype: torch.dtype) -> None:
    from engine_svc.kernels.pointwise import rms_norm, silu_gated

    rows, norm = drawn(7, size, dtype=dtype), drawn(size, dtype=dtype)
    check(rms_norm(rows, norm, EPS), normed(rows, norm), dtype)
    gate, up = rows.double().chunk(2, -1)
    check(silu_gated(rows), functional.silu(gate) * up, dtype)


# Heads, key heads and their size; norms or a window; dtype. Each is several compilations.
CASES = [
    ((9, 3, 64), "plain", torch.float32),
    ((9, 3, 64), "plain", DTYPES[-1]),
    ((8, 2, 128), "norms", DTYPES[-1]),
    ((4, 4, 48), "window", DTYPES[-1]),
]
every_case = pytest.mark.parametrize(("shape", "kind", "dtype"), CASES, ids=str)
BLOCK_TOKENS = 16


def cache_of(shape: tuple[int, int, int], dtype: torch.dtype, tokens: int) -> KVCache:
    """A cache in which everything has been written once."""
    heads, kv_heads, head_size = shape
    config = ModelConfig(
        family="llama",
        vocabulary_size=10,
        layers=2,
        hidden_size=heads * head_size,
        intermediate_size=8,
        heads=heads,
        kv_heads=kv_heads,
        head_size=head_size,
        norm_eps=EPS,
        context_tokens=tokens,
        tied_embeddings=False,
        rope=Rope(10_000.0),
    )
    blocks = -(-tokens // BLOCK_TOKENS) * 8
    made = KVCache(config, CacheShape(blocks, BLOCK_TOKENS, 8, tokens), DEVICE, dtype)
    made.keys.copy_(torch.randn_like(made.keys))
    made.values.copy_(torch.randn_like(made.values))
    return made


def tables(cache: KVCache, rows: int) -> Tensor:
    """Block tables of `rows` sequences, no block twice, in no order."""
    blocks = torch.randperm(cache.shape.total_blocks, device=DEVICE) + 1
    columns = cache.shape.blocks_per_sequence
    return blocks[: rows * columns].view(rows, columns).int()


def rules_of(shape: tuple[int, int, int], kind: str, dtype: torch.dtype) -> HeadRules:
    if kind == "norms":
        query_norm, key_norm = (drawn(shape[2], dtype=dtype, scale=0.1) + 1 for _ in range(2))
        return HeadRules(shape[0], query_norm, key_norm, norm_eps=EPS)
    return HeadRules(shape[0], window_tokens=70 if kind == "window" else None)


def compare(
    cache: KVCache,
    slots: Tensor,
    chunks: ChunkTables | None,
    rows: RowTables | None,
    positions: Tensor,
    rules: HeadRules,
) -> None:
    """The kernels' result and what they cached, against PyTorch's in float64 on CPU."""
    from engine_svc.kernels.attention import KernelAttention

    dtype = cache.keys.dtype
    kv_heads, head_size = cache.keys.shape[-2:]
    qkv = drawn(len(slots), (rules.heads + 2 * kv_heads) * head_size, dtype=dtype)
    table = RotaryTable(Rope(10_000.0), head_size, cache.shape.max_context_tokens, DEVICE)
    wide = _wide(cache)
    exact = TorchAttention(wide, slots.cpu(), _on_cpu(chunks), _on_cpu(rows))
    expected = exact(1, qkv.double().cpu(), _rotation(table, positions), _wide_rules(rules))
    found = KernelAttention(cache, slots, chunks, rows)(1, qkv, Rotation(table, positions), rules)
    real = torch.ones(len(slots), dtype=torch.bool)
    if rows is not None:
        real[len(slots) - len(rows.context_tokens) :] = rows.context_tokens.cpu() > 0
    check(found.cpu()[real], expected[real], dtype)
    check(cache.keys[1].cpu(), wide.keys[1], dtype)
    assert torch.equal(cache.values[1].cpu().double(), wide.values[1])


def _wide(cache: KVCache) -> KVCache:
    copied = KVCache.__new__(KVCache)
    copied.shape, copied.device = cache.shape, torch.device("cpu")
    copied.keys, copied.values = cache.keys.cpu().double(), cache.values.cpu().double()
    return copied


def _on_cpu(tables: Any) -> Any:
    if tables is None:
        return None
    fields = {name: getattr(tables, name) for name in tables.__slots__}
    return dataclasses.replace(
        tables, **{name: v.cpu() for name, v in fields.items() if isinstance(v, Tensor)}
    )


def _rotation(table: RotaryTable, positions: Tensor) -> Rotation:
    rotation = Rotation(table, positions.cpu())
    rotation.table = table.values.double().cpu()
    return rotation


def _wide_rules(rules: HeadRules) -> HeadRules:
    def wide(norm: Tensor | None) -> Tensor | None:
        return None if norm is None else norm.double().cpu()

    query_norm, key_norm = wide(rules.query_norm), wide(rules.key_norm)
    return dataclasses.replace(rules, query_norm=query_norm, key_norm=key_norm)


@every_case
@pytest.mark.parametrize("longest", [80, 700], ids=["short", "long, in parts"])
def test_rows_attend_as_in_float64(
    shape: tuple[int, int, int], kind: str, longest: int, dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    cache = cache_of(shape, dtype, 720)
    # One token, one tile, a tile and one more, padding, and the longest.
    contexts = torch.tensor([1, 64, 65, 0, longest], dtype=torch.int32, device=DEVICE)
    blocks = tables(cache, 5)
    last = (contexts.long() - 1).clamp(min=0)
    slots = blocks.gather(1, last[:, None] // BLOCK_TOKENS).squeeze(1).long() * BLOCK_TOKENS
    slots = torch.where(contexts > 0, slots + last % BLOCK_TOKENS, -1)
    compare(cache, slots, None, RowTables(blocks, contexts), last, rules_of(shape, kind, dtype))


def chunk_step(
    cache: KVCache, spans: list[tuple[int, int]], rows: list[int]
) -> tuple[Tensor, ChunkTables, RowTables | None, Tensor]:
    """A step that reads tokens begin … end − 1 of prompts and decodes at contexts `rows`."""
    blocks = tables(cache, len(spans) + len(rows))
    ends = [*((b, e) for b, e in spans), *((context - 1, context) for context in rows)]
    positions = torch.cat([torch.arange(b, e) for b, e in ends]).to(DEVICE)
    owner = torch.tensor([e - b for b, e in ends], device=DEVICE)
    owner = torch.arange(len(ends), device=DEVICE).repeat_interleave(owner)
    slots = blocks[owner, positions // BLOCK_TOKENS].long() * BLOCK_TOKENS
    slots += positions % BLOCK_TOKENS
    lengths = torch.tensor([0, *(e - b for b, e in spans)], device=DEVICE)
    chunks = ChunkTables(
        query_starts=lengths.cumsum(0).int(),
        context_tokens=torch.tensor([e for _, e in spans], device=DEVICE).int(),
        tables=blocks[: len(spans)],
        longest_query=max(e - b for b, e in spans),
        longest_context=max(e for _, e in spans),
    )
    if not rows:
        return slots, chunks, None, positions
    contexts = torch.tensor(rows, dtype=torch.int32, device=DEVICE)
    return slots, chunks, RowTables(blocks[len(spans) :], contexts), positions


@every_case
@pytest.mark.parametrize(
    "spans",
    [[(0, 5), (30, 31), (16, 20)], [(0, 40), (50, 83), (3, 4)], [(0, 130), (33, 100)]],
    ids=["small", "middle", "large"],
)
def test_chunks_attend_as_in_float64(
    shape: tuple[int, int, int], kind: str, spans: list[tuple[int, int]], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    cache = cache_of(shape, dtype, 160)
    slots, chunks, _, positions = chunk_step(cache, spans, [])
    compare(cache, slots, chunks, None, positions, rules_of(shape, kind, dtype))


def test_chunks_and_rows_share_a_step() -> None:
    torch.manual_seed(0)
    shape, kind, dtype = CASES[1]
    cache = cache_of(shape, dtype, 160)
    step = chunk_step(cache, [(0, 20), (16, 40)], [1, 90, 17])
    slots, chunks, rows, positions = step
    compare(cache, slots, chunks, rows, positions, rules_of(shape, kind, dtype))


@pytest.mark.skipif(INTERPRETED, reason="the interpreter runs one program after another")
def test_parts_of_a_context_are_joined_the_same_every_time() -> None:
    from engine_svc.kernels.attention import KernelAttention

    cache = cache_of((9, 3, 64), torch.bfloat16, 4096)
    blocks = tables(cache, 2)
    contexts = torch.tensor([4000, 3000], dtype=torch.int32, device=DEVICE)
    slots = torch.tensor([-1, -1], device=DEVICE)
    table = RotaryTable(Rope(10_000.0), 64, 4096, DEVICE)
    attention = KernelAttention(cache, slots, None, RowTables(blocks, contexts))
    qkv = drawn(2, 15 * 64, dtype=torch.bfloat16)
    rotation = Rotation(table, contexts.long() - 1)
    first = attention(0, qkv, rotation, HeadRules(9))
    for _ in range(2000):
        again = attention(0, qkv, rotation, HeadRules(9))
    assert torch.equal(first, again)
