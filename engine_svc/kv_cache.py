"""The tensors of the KV cache: blocks of tokens, in every layer.

Who has which block is `blocks`' business; this module sizes, holds and clears them.
The scheduler's reservation means that a sequence's blocks are known when it starts,
so a row of the block table is written once. Called by `runner`.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine_svc.blocks import PADDING_BLOCK
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
        self._tables = np.full(
            (shape.max_sequences, shape.blocks_per_sequence), PADDING_BLOCK, dtype=np.int64
        )
        self._device_tables = torch.from_numpy(self._tables.copy()).to(device)

    def assign(self, place: int, blocks: Items[int]) -> None:
        """Makes `blocks` the row `place` of the block table."""
        self._tables[place] = PADDING_BLOCK
        self._tables[place, : len(blocks)] = blocks
        self._device_tables[place] = torch.from_numpy(self._tables[place]).to(self.device)

    def slots(self, places: np.ndarray, positions: np.ndarray) -> np.ndarray:
        """Where tokens lie: block · block_tokens + offset, int64 like the arguments."""
        size = self.shape.block_tokens
        blocks = self._tables[places, positions // size]
        found: np.ndarray = blocks * size + positions % size
        return found

    def tables(self, places: Tensor, longest_tokens: int) -> Tensor:
        """Block tables int64 [rows, columns], as wide as `longest_tokens` needs."""
        columns = -(-longest_tokens // self.shape.block_tokens)
        return self._device_tables[places, :columns]

    def store(self, layer: int, slots: Tensor, k: Tensor, v: Tensor) -> None:
        """Writes k, v [tokens, kv_heads, head_size] at int64 slots [tokens]."""
        self.keys[layer].flatten(0, 1).index_copy_(0, slots, k)
        self.values[layer].flatten(0, 1).index_copy_(0, slots, v)

    def clear(self, blocks: Items[int]) -> None:
        """Zeroes blocks in which NaN may lie, before somebody else gets them."""
        index = torch.tensor(blocks, dtype=torch.int64, device=self.device)
        self.keys.index_fill_(1, index, 0.0)
        self.values.index_fill_(1, index, 0.0)
