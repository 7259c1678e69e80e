"""Attention over the paged cache in plain PyTorch: the reference, and what runs on CPU.

Gathers the cached keys and values of a sequence and leaves the rest to SDPA. Made by
`attention.step_attention`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from engine_svc.attention import ChunkTables, HeadRules, RowTables
from engine_svc.kv_cache import KVCache
from engine_svc.model.rope import Rotation, rotate


class TorchAttention:
    """See `engine_svc.attention.Attention`."""

    def __init__(
        self, cache: KVCache, slots: Tensor, chunks: ChunkTables | None, rows: RowTables | None
    ) -> None:
        self._cache = cache
        stored = slots >= 0
        self._slots = slots[stored]
        self._stored = None if bool(stored.all()) else stored
        self._spans = _spans(chunks) if chunks else []
        self._rows = len(rows.context_tokens) if rows else 0
        self._decode = _Decode(cache, rows) if rows and self._rows else None

    def __call__(self, layer: int, qkv: Tensor, rotation: Rotation, rules: HeadRules) -> Tensor:
        """See `Attention`."""
        q, k, v = self._heads(qkv, rotation, rules)
        self._store(layer, k, v)
        attended = [self._chunk(layer, span, q, k, v, rules) for span in self._spans]
        read = self._spans[-1].end if self._spans else 0
        if padding := len(q) - read - self._rows:
            attended.append(torch.zeros_like(q[:padding]))
        if self._decode:
            attended.append(self._decode(layer, q[read + padding :], rules))
        joined = attended[0] if len(attended) == 1 else torch.cat(attended)
        return joined.flatten(1)

    def _heads(
        self, qkv: Tensor, rotation: Rotation, rules: HeadRules
    ) -> tuple[Tensor, Tensor, Tensor]:
        kv_heads, head_size = self._cache.keys.shape[-2:]
        # Heads of one token: q … q k … k v … v; queries and keys turn together.
        projected = qkv.view(-1, rules.heads + 2 * kv_heads, head_size)
        turning, v = projected[:, : rules.heads + kv_heads], projected[:, rules.heads + kv_heads :]
        if rules.query_norm is not None and rules.key_norm is not None:
            eps, size = rules.norm_eps, (head_size,)
            q, k = turning[:, : rules.heads], turning[:, rules.heads :]
            q = functional.rms_norm(q, size, rules.query_norm, eps)
            turning = torch.cat((q, functional.rms_norm(k, size, rules.key_norm, eps)), 1)
        turned = rotate(turning, rotation)
        return turned[:, : rules.heads], turned[:, rules.heads :], v

    def _store(self, layer: int, k: Tensor, v: Tensor) -> None:
        if self._stored is not None:
            k, v = k[self._stored], v[self._stored]
        self._cache.keys[layer].flatten(0, 1).index_copy_(0, self._slots, k)
        self._cache.values[layer].flatten(0, 1).index_copy_(0, self._slots, v)

    def _chunk(
        self, layer: int, span: _Span, q: Tensor, k: Tensor, v: Tensor, rules: HeadRules
    ) -> Tensor:
        own = slice(span.start, span.end)
        q, k, v = q[own], k[own], v[own]
        if span.context > len(q):
            k, v = self._cached(layer, span)
        window = rules.window_tokens
        if span.context == len(q) and (window is None or span.context <= window):
            return _attend(q, k, v, None, causal=True)
        return _attend(q, k, v, span.mask(window, q.device), causal=False)

    def _cached(self, layer: int, span: _Span) -> tuple[Tensor, Tensor]:
        columns = -(-span.context // self._cache.shape.block_tokens)
        blocks = span.table[:columns]
        keys = self._cache.keys[layer].index_select(0, blocks).flatten(0, 1)
        values = self._cache.values[layer].index_select(0, blocks).flatten(0, 1)
        return keys[: span.context], values[: span.context]


@dataclass(frozen=True, slots=True)
class _Span:
    """One chunk: its place among the step's tokens, and how much it looks back on."""

    start: int
    end: int
    context: int
    table: Tensor

    def mask(self, window: int | None, device: torch.device) -> Tensor:
        """Whether a query [rows] may see a key [columns]."""
        last = torch.arange(self.context - (self.end - self.start), self.context, device=device)
        back = last[:, None] - torch.arange(self.context, device=device)
        seen = back >= 0
        return seen if window is None else seen & (back < window)


def _spans(chunks: ChunkTables) -> list[_Span]:
    starts, contexts = chunks.query_starts.tolist(), chunks.context_tokens.tolist()
    spans = zip(starts[:-1], starts[1:], contexts, chunks.tables, strict=True)
    return [_Span(*span) for span in spans if span[1] > span[0]]


class _Decode:
    """One new token a row to all cached ones of its sequence."""

    def __init__(self, cache: KVCache, rows: RowTables) -> None:
        self._cache = cache
        # A padding row reads the padding block, so that nothing is NaN.
        self._contexts = rows.context_tokens.clamp(min=1)
        columns = -(-int(self._contexts.max()) // cache.shape.block_tokens)
        self._blocks = rows.tables[:, :columns].flatten()
        self._masks: dict[int | None, Tensor] = {}

    def __call__(self, layer: int, q: Tensor, rules: HeadRules) -> Tensor:
        """[rows, heads, head_size] → the same."""
        keys = self._gather(self._cache.keys[layer])
        values = self._gather(self._cache.values[layer])
        # The queries that share a key head stand in the place of query positions:
        # [rows, kv_heads, group, head_size]. Nothing is repeated.
        rows, kv_heads = keys.shape[:2]
        grouped = q.reshape(rows, kv_heads, -1, q.shape[2])
        mask = self._mask(rules.window_tokens, keys.shape[2])
        mask = mask[:, None, None, :].expand(-1, kv_heads, grouped.shape[2], -1)
        attended = functional.scaled_dot_product_attention(grouped, keys, values, attn_mask=mask)
        return attended.flatten(1, 2)

    def _gather(self, cached: Tensor) -> Tensor:
        """[blocks, block_tokens, kv_heads, head_size] → [rows, kv_heads, tokens, head_size]."""
        found = cached.index_select(0, self._blocks)
        return found.view(len(self._contexts), -1, *cached.shape[2:]).transpose(1, 2)

    def _mask(self, window: int | None, columns: int) -> Tensor:
        """0 or −∞ [rows, columns], made once for all layers of a kind."""
        if window not in self._masks:
            back = self._contexts[:, None] - 1 - torch.arange(columns, device=self._blocks.device)
            unseen = (back < 0) if window is None else (back < 0) | (back >= window)
            mask = torch.zeros(unseen.shape, dtype=self._cache.keys.dtype, device=unseen.device)
            self._masks[window] = mask.masked_fill_(unseen, float("-inf"))
        return self._masks[window]


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, *, causal: bool) -> Tensor:
    """One sequence's [tokens, heads, head_size] → the same."""
    q, k, v = (tokens[None].transpose(1, 2) for tokens in (q, k, v))
    attended = functional.scaled_dot_product_attention(
        q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True
    )
    return attended.transpose(1, 2)[0]
