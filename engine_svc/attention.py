"""Attention over the paged KV cache: one class for reading prompts, one for decoding.

The only place that knows how keys and values are fetched; kernels replace what is
here and nothing else. Both are made by `runner` once a forward pass and called by the
model once a layer.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from engine_svc.kv_cache import KVCache


class PromptAttention:
    """Causal attention of whole prompts, laid one after another without padding."""

    def __init__(
        self, cache: KVCache, slots: Tensor, lengths: Sequence[int], *, together: bool
    ) -> None:
        """`together` pads the prompts into one call, where a call costs more than padding."""
        self._cache = cache
        self._slots = slots
        self._lengths = list(lengths)
        self._longest = max(self._lengths)
        self._together = together
        self._cells = self._padded_cells() if self._together else slots

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[tokens, heads, head_size] → the same; k, v are stored."""
        self._cache.store(layer, self._slots, k, v)
        if self._together:
            attended = _causal(self._padded(q), self._padded(k), self._padded(v))
            return attended.flatten(0, 1)[self._cells]
        return torch.cat(list(self._one_by_one(q, k, v)))

    def _one_by_one(self, q: Tensor, k: Tensor, v: Tensor) -> Iterator[Tensor]:
        parts = zip(*(torch.split(t, self._lengths) for t in (q, k, v)), strict=True)
        for one_q, one_k, one_v in parts:
            yield _causal(one_q[None], one_k[None], one_v[None])[0]

    def _padded_cells(self) -> Tensor:
        """Where each token stands in [rows · longest]."""
        starts = range(0, len(self._lengths) * self._longest, self._longest)
        spans = zip(starts, self._lengths, strict=True)
        cells = np.concatenate([np.arange(start, start + length) for start, length in spans])
        return torch.from_numpy(cells).to(self._slots.device)

    def _padded(self, packed: Tensor) -> Tensor:
        # Padding is to the right, where no token of a causal row looks.
        rows = len(self._lengths)
        cells = packed.new_zeros(rows * self._longest, *packed.shape[1:])
        cells.index_copy_(0, self._cells, packed)
        return cells.view(rows, self._longest, *packed.shape[1:])


def _causal(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """[rows, tokens, heads, head_size] → the same."""
    return functional.scaled_dot_product_attention(
        q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), is_causal=True, enable_gqa=True
    ).transpose(1, 2)


def decode_attention(
    cache: KVCache, slots: Tensor, tables: Tensor, lengths: Tensor
) -> DecodeAttention | KernelDecodeAttention:
    """Decoding's attention for the cache's device: a kernel on CUDA, SDPA elsewhere.

    `lengths` int64 [rows] counts the new token; `tables` is `KVCache.tables`.
    """
    chosen = KernelDecodeAttention if cache.device.type == "cuda" else DecodeAttention
    return chosen(cache, slots, tables, lengths)


class KernelDecodeAttention:
    """Attention of one new token a sequence to all of its tokens, read where they lie."""

    def __init__(self, cache: KVCache, slots: Tensor, tables: Tensor, lengths: Tensor) -> None:
        from engine_svc import paged_decode  # Triton comes with PyTorch's CUDA builds only

        self._attend = paged_decode.attend
        self._cache = cache
        self._slots = slots
        self._tables = tables
        self._lengths = lengths

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[rows, heads, head_size] → the same; k, v are stored."""
        self._cache.store(layer, self._slots, k, v)
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        return self._attend(q, keys, values, self._tables, self._lengths)


class DecodeAttention:
    """The same by gathering the keys and values and leaving the rest to SDPA."""

    def __init__(self, cache: KVCache, slots: Tensor, tables: Tensor, lengths: Tensor) -> None:
        self._cache = cache
        self._slots = slots
        self._rows = tables.shape[0]
        self._blocks = tables.flatten()
        span = torch.arange(tables.shape[1] * cache.shape.block_tokens, device=tables.device)
        beyond = span >= lengths.unsqueeze(1)
        mask = torch.zeros(beyond.shape, dtype=cache.keys.dtype, device=tables.device)
        self._mask = mask.masked_fill_(beyond, float("-inf"))[:, None, None, :]

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """[rows, heads, head_size] → the same; k, v are stored."""
        self._cache.store(layer, self._slots, k, v)
        keys = self._gather(self._cache.keys[layer])
        values = self._gather(self._cache.values[layer])
        # The queries that share a key head stand in the place of query positions:
        # [rows, kv_heads, group, head_size]. Nothing is repeated.
        grouped = q.reshape(self._rows, k.shape[1], -1, q.shape[2])
        mask = self._mask.expand(-1, grouped.shape[1], grouped.shape[2], -1)
        attended = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
        return attended.flatten(1, 2)

    def _gather(self, cached: Tensor) -> Tensor:
        """[blocks, block_tokens, kv_heads, head_size] → [rows, kv_heads, tokens, head_size]."""
        found = cached.index_select(0, self._blocks)
        return found.view(self._rows, -1, *cached.shape[2:]).transpose(1, 2)
