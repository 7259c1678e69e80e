"""Attention over the paged cache by kernels; the CUDA side of `engine_svc.attention`."""

from __future__ import annotations

import torch
from torch import Tensor

from engine_svc.attention import ChunkTables, HeadRules, RowTables
from engine_svc.kernels.chunk_attention import attend_chunks
from engine_svc.kernels.prompt_heads import prepare_prompt_heads
from engine_svc.kernels.row_attention import attend_rows
from engine_svc.kv_cache import KVCache
from engine_svc.model.rope import Rotation


class KernelAttention:
    """See `engine_svc.attention.Attention`."""

    def __init__(
        self, cache: KVCache, slots: Tensor, chunks: ChunkTables | None, rows: RowTables | None
    ) -> None:
        self._cache = cache
        self._slots = slots
        self._chunks = chunks
        self._rows = rows
        self._read_tokens = len(slots) - (len(rows.context_tokens) if rows else 0)

    def __call__(self, layer: int, qkv: Tensor, rotation: Rotation, rules: HeadRules) -> Tensor:
        """See `Attention`."""
        head_size = self._cache.keys.shape[-1]
        out = torch.empty(len(qkv), rules.heads * head_size, dtype=qkv.dtype, device=qkv.device)
        if self._chunks and self._read_tokens:
            self._attend_chunks(self._chunks, layer, qkv, rotation, rules, out)
        if self._rows and self._read_tokens < len(qkv):
            self._attend_rows(self._rows, layer, qkv, rotation, rules, out)
        return out

    def _attend_chunks(
        self,
        chunks: ChunkTables,
        layer: int,
        qkv: Tensor,
        rotation: Rotation,
        rules: HeadRules,
        out: Tensor,
    ) -> None:
        keys, values = self._cache.keys[layer], self._cache.values[layer]
        prepare_prompt_heads(
            qkv[: self._read_tokens],
            self._slots,
            rotation.positions,
            rotation.table,
            keys,
            values,
            heads=rules.heads,
            query_norm=rules.query_norm,
            key_norm=rules.key_norm,
            eps=rules.norm_eps,
        )
        attend_chunks(qkv, keys, values, chunks, out, heads=rules.heads, window=rules.window_tokens)

    def _attend_rows(
        self,
        rows: RowTables,
        layer: int,
        qkv: Tensor,
        rotation: Rotation,
        rules: HeadRules,
        out: Tensor,
    ) -> None:
        own = slice(self._read_tokens, None)
        attend_rows(
            qkv[own],
            self._slots[own],
            rotation.table,
            self._cache.keys[layer],
            self._cache.values[layer],
            rows.tables,
            rows.context_tokens,
            out[own],
            heads=rules.heads,
            query_norm=rules.query_norm,
            key_norm=rules.key_norm,
            eps=rules.norm_eps,
            window=rules.window_tokens,
        )
