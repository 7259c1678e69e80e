"""`engine_svc.row_inputs` as one kernel: a program a row."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_svc.kernels.launch import overlap
from engine_svc.kernels.waiting import wait
from engine_svc.row_inputs import RowInputs

TILE_COLUMNS = 128


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _row_inputs(  # type: ignore[no-untyped-def]
    positions_ptr, blocks_ptr, newest_ptr, places_ptr,
    tokens_ptr, reads_ptr, slots_ptr, contexts_ptr, lengths_ptr, out_ptr, columns,
    BLOCK_TOKENS: tl.constexpr, TILE: tl.constexpr, OVERLAP: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    wait(OVERLAP)
    place = tl.load(places_ptr + row)
    at = tl.load(positions_ptr + place)
    read = tl.maximum(at, 0)
    column = read // BLOCK_TOKENS
    block = tl.load(blocks_ptr + place * columns + column).to(tl.int64)
    slot = tl.where(at < 0, -1, block * BLOCK_TOKENS + read % BLOCK_TOKENS)
    tl.store(tokens_ptr + row, tl.load(newest_ptr + place))
    tl.store(reads_ptr + row, read)
    tl.store(slots_ptr + row, slot)
    tl.store(contexts_ptr + row, (at + 1).to(tl.int32))
    tl.store(lengths_ptr + row, at + 1)
    # Of the block table what the context needs: the rest of the row is never read.
    for start in tl.range(0, column + 1, TILE):
        index = start + tl.arange(0, TILE)
        needed = index <= column
        found = tl.load(blocks_ptr + place * columns + index, mask=needed, other=0)
        tl.store(out_ptr + row * columns + index, found, mask=needed)


def gather(
    positions: Tensor, blocks: Tensor, newest: Tensor, places: Tensor, block_tokens: int
) -> RowInputs:
    """See `engine_svc.row_inputs.row_inputs`; blocks beyond a row's context are undefined."""
    rows, columns = len(places), blocks.shape[1]
    tokens, reads, slots, lengths = torch.empty(
        (4, rows), dtype=torch.int64, device=places.device
    ).unbind()
    contexts = torch.empty(rows, dtype=torch.int32, device=places.device)
    out = torch.empty((rows, columns), dtype=torch.int32, device=places.device)
    _row_inputs[(rows,)](
        positions, blocks, newest, places, tokens, reads, slots, contexts, lengths, out, columns,
        BLOCK_TOKENS=block_tokens, TILE=TILE_COLUMNS, num_warps=4, **overlap(),
    )  # fmt: skip
    return RowInputs(tokens, reads, slots, contexts, lengths, out)
