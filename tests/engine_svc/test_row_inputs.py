from __future__ import annotations

import os
from collections.abc import Callable

import pytest
import torch

from engine_svc.row_inputs import RowInputs, gather_plain

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = torch.device("cuda" if torch.cuda.is_available() and not INTERPRETED else "cpu")
POSITIONS = torch.tensor([0, 15, 16, 47, 2100, -1])
BLOCKS = torch.arange(6 * 140, dtype=torch.int32).view(6, 140)
NEWEST = torch.tensor([5, 6, 7, 8, 9, 0])
PLACES = torch.tensor([4, 0, 5, 3, 1, 2, 5])


def by_kernel(*arguments: torch.Tensor | int) -> RowInputs:
    from engine_svc.kernels.row_inputs import gather

    moved = [a.to(DEVICE) if isinstance(a, torch.Tensor) else a for a in arguments]
    return gather(*moved)  # type: ignore[arg-type]


@pytest.fixture(
    params=[
        gather_plain,
        pytest.param(
            by_kernel,
            marks=[
                pytest.mark.gpu,
                pytest.mark.skipif(
                    not (torch.cuda.is_available() or INTERPRETED),
                    reason="needs CUDA or the interpreter",
                ),
            ],
        ),
    ]
)
def found(request: pytest.FixtureRequest) -> RowInputs:
    gather: Callable[..., RowInputs] = request.param
    return gather(POSITIONS, BLOCKS, NEWEST, PLACES, 16)


def test_a_row_reads_the_newest_token_of_its_place_where_that_stands(found: RowInputs) -> None:
    assert found.token_ids.tolist() == [9, 5, 0, 8, 6, 7, 0]
    assert found.positions.tolist() == [2100, 0, 0, 47, 15, 16, 0]
    assert found.lengths.tolist() == [2101, 1, 0, 48, 16, 17, 0]
    assert found.context_tokens.tolist() == found.lengths.tolist()
    assert (found.context_tokens.dtype, found.lengths.dtype) == (torch.int32, torch.int64)


def test_its_cell_lies_in_the_block_of_its_position_and_padding_has_none(
    found: RowInputs,
) -> None:
    expected = [(4 * 140 + 131) * 16 + 4, 0, -1, (3 * 140 + 2) * 16 + 15, 140 * 16 + 15]
    assert found.slots.tolist() == [*expected, (2 * 140 + 1) * 16, -1]


def test_the_blocks_of_its_context_are_there(found: RowInputs) -> None:
    for row, (place, context) in enumerate(zip(PLACES, found.lengths.tolist(), strict=True)):
        needed = -(-context // 16)
        assert found.blocks[row, :needed].tolist() == BLOCKS[place, :needed].tolist()
