"""What a forward pass must know of decode rows, from the tables of their places.

In plain PyTorch, and by one kernel on CUDA: a dozen small operations would be a
noticeable part of a small model's step. Called by `forward_pass`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine_svc.batch_tables import BatchTables


@dataclass(frozen=True, slots=True)
class RowInputs:
    """A row for each sequence that decodes; those of the padding place have no context."""

    token_ids: Tensor
    """int64 [rows], what is read."""
    positions: Tensor
    """int64 [rows], where; 0 for padding."""
    slots: Tensor
    """int64 [rows], the cell of the cache that it goes to; -1 for padding."""
    context_tokens: Tensor
    """int32 [rows], the read token counted; 0 for padding."""
    lengths: Tensor
    """The same, int64."""
    blocks: Tensor
    """int32 [rows, columns], as much of the block table as the context needs."""


def row_inputs(tables: BatchTables, newest: Tensor, places: Tensor) -> RowInputs:
    """The inputs of the rows at `places` int64 [rows]; `newest` int64 [places + 1] tokens."""
    if tables.device.type == "cuda":
        from engine_svc.kernels.row_inputs import gather  # needs Triton

        return gather(tables.positions, tables.blocks, newest, places, tables.block_tokens)
    return gather_plain(tables.positions, tables.blocks, newest, places, tables.block_tokens)


def gather_plain(
    positions: Tensor, blocks: Tensor, newest: Tensor, places: Tensor, block_tokens: int
) -> RowInputs:
    """The reference: `row_inputs` in plain PyTorch."""
    at = positions[places]
    # The padding place stands at -1.
    read = at.clamp(min=0)
    rows = blocks[places]
    block = rows.gather(1, (read // block_tokens).unsqueeze(1)).squeeze(1)
    return RowInputs(
        token_ids=newest[places],
        positions=read,
        slots=torch.where(at < 0, -1, block * block_tokens + read % block_tokens),
        context_tokens=(at + 1).int(),
        lengths=at + 1,
        blocks=rows,
    )
