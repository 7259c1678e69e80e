"""The tensors of the KV cache: blocks of tokens, in every layer.

Who has which block is `blocks`' business, and which block holds which tokens of a
sequence stands in `batch_tables`; this module sizes, holds and clears. Called by
`runner` and by the attention.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch

from engine_svc.model.config import ModelConfig


@dataclass(frozen=True, slots=True)
class CacheShape:
    """How much the cache holds."""

    total_blocks: int
    block_tokens: int
    max_sequences: int
    max_context_tokens: int

    @property
    def blocks_per_sequence(self) -> int:
        """Columns of the block table."""
        return -(-self.max_context_tokens // self.block_tokens)


def bytes_per_token(config: ModelConfig, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token over all layers."""
    return 2 * config.layers * config.kv_heads * config.head_size * dtype.itemsize


class KVCache:
    """Keys and values, each [layers, blocks + 1, block_tokens, kv_heads, head_size]."""

    def __init__(
        self, config: ModelConfig, shape: CacheShape, device: torch.device, dtype: torch.dtype
    ) -> None:
        self.shape = shape
        self.device = device
        sizes = (
            config.layers,
            shape.total_blocks + 1,
            shape.block_tokens,
            config.kv_heads,
            config.head_size,
        )
        # Zeros, not empty: masked-out garbage times weight 0 must not be NaN.
        self.keys = torch.zeros(sizes, dtype=dtype, device=device)
        self.values = torch.zeros(sizes, dtype=dtype, device=device)

    def clear(self, blocks: Items[int]) -> None:
        """Zeroes blocks in which NaN may lie, before somebody else gets them."""
        index = torch.tensor(blocks, dtype=torch.int64, device=self.device)
        self.keys.index_fill_(1, index, 0.0)
        self.values.index_fill_(1, index, 0.0)
