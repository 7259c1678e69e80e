"""The tables of the running batch, a row a place: blocks and positions.

On the device they let a decode step begin without a word from the host: where a
sequence stands is advanced there by each step. The block table has a copy on the host,
from which a chunk's cells of the cache are found. Called by `runner`.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from engine_svc.blocks import PADDING_BLOCK
from engine_svc.kv_cache import CacheShape
from engine_svc.step import Cell

Integers = NDArray[np.int64]


class BatchTables:
    """Rows 0 … max_sequences - 1, and `padding_place` for rows that belong to no sequence."""

    def __init__(self, shape: CacheShape, device: torch.device) -> None:
        self.padding_place = shape.max_sequences
        self.block_tokens = shape.block_tokens
        self.device = device
        sizes = (shape.max_sequences + 1, shape.blocks_per_sequence)
        self._host_blocks = np.full(sizes, PADDING_BLOCK, dtype=np.int64)
        self.blocks = torch.full(sizes, PADDING_BLOCK, dtype=torch.int32, device=device)
        """Block table, int32 [places + 1, columns]. What lies beyond a sequence's tokens is
        left over from others and never read."""
        self.positions = torch.full((sizes[0],), -1, dtype=torch.int64, device=device)
        """Position of each place's newest token, which no step has read yet: int64 [places + 1];
        -1 where there is none, as always in the padding place."""

    def write(self, cells: Items[Cell]) -> None:
        """Changes entries of the block table."""
        if not cells:
            return
        places, columns, blocks = np.array(cells, dtype=np.int64).T
        self._host_blocks[places, columns] = blocks
        flat = places * self.blocks.shape[1] + columns
        index, values = to_device(np.stack((flat, blocks)), self.device)
        self.blocks.view(-1).index_copy_(0, index, values.int())

    def slots(self, places: Integers, positions: Integers) -> Integers:
        """Cells of the cache: block · block_tokens + offset, int64 like the arguments."""
        blocks: Integers = self._host_blocks[places, positions // self.block_tokens]
        return blocks * self.block_tokens + positions % self.block_tokens


def to_device(values: Integers, device: torch.device) -> Tensor:
    """A copy on the device; nothing that runs there is waited for."""
    tensor = torch.from_numpy(values)
    if device.type == "cpu":
        return tensor
    # PyTorch keeps pinned memory until the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)
