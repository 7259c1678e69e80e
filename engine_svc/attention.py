"""Attention over the paged KV cache: what one forward pass asks, and who answers it.

A step's tokens are those of chunks (parts of prompts, each after what is cached of it
already), one after another, and then one new token for each row that decodes. Made by
`runner` once a forward pass and called by the model once a layer, with the projected
queries, keys and values: norms of heads, rotation and the cache's update are done here,
where a kernel can join them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from engine_svc.kv_cache import KVCache
from engine_svc.model.rope import Rotation


@dataclass(frozen=True, slots=True)
class HeadRules:
    """What a layer does with its heads before and while they attend."""

    heads: int
    """Query heads; the key and value heads are the cache's."""
    query_norm: Tensor | None = None
    """RMSNorm weight [head_size] of every query head, before its rotation; None: no norm."""
    key_norm: Tensor | None = None
    """The same of every key head."""
    norm_eps: float = 0.0
    window_tokens: int | None = None
    """A token sees so many tokens, itself counted; None: all before it."""


@dataclass(frozen=True, slots=True)
class ChunkTables:
    """Consecutive tokens of prompts; each chunk attends to its past and causally to itself."""

    query_starts: Tensor
    """int32 [chunks + 1]: where each chunk's tokens begin in the step, and the end."""
    context_tokens: Tensor
    """int32 [chunks]: cached tokens and the chunk's own."""
    tables: Tensor
    """int32 [chunks, columns]: blocks of the cache."""
    longest_query: int
    """At least the tokens of the longest chunk."""
    longest_context: int
    """At least the largest of `context_tokens`."""


@dataclass(frozen=True, slots=True)
class RowTables:
    """One new token for each of several sequences."""

    tables: Tensor
    """int32 [rows, columns]: blocks of the cache."""
    context_tokens: Tensor
    """int32 [rows], the new token counted; 0: a padding row, whose result means nothing."""


class Attention(Protocol):
    """How the tokens of one forward pass attend."""

    def __call__(self, layer: int, qkv: Tensor, rotation: Rotation, rules: HeadRules) -> Tensor:
        """Stores keys and values, and attends.

        qkv [tokens, (heads + 2 · kv_heads) · head_size], heads of queries, keys and values
        one after another; may be written over. Returns [tokens, heads · head_size].
        """


def step_attention(
    cache: KVCache, slots: Tensor, chunks: ChunkTables | None, rows: RowTables | None
) -> Attention:
    """The attention of one forward pass, for the cache's device.

    `slots` int64 [tokens]: the cell of the cache that each token's key and value go to,
    block · block_tokens + offset; below 0: nowhere.
    """
    if cache.device.type == "cuda":
        from engine_svc.kernels.attention import KernelAttention  # needs Triton

        return KernelAttention(cache, slots, chunks, rows)
    from engine_svc.torch_attention import TorchAttention

    return TorchAttention(cache, slots, chunks, rows)
