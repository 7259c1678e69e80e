from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from engine_svc.progress import Progress, Rows, rows_of
from engine_svc.sequence import Sequence

from .turns import make_sequence

EOS = 2


def running(*sequences: Sequence) -> tuple[Progress, Rows]:
    progress = Progress(8, frozenset({EOS, 3}))
    for place, sequence in enumerate(sequences):
        sequence.place, sequence.run = 2 * place, place
        progress.start(sequence)
    return progress, rows_of(sequences)


def advance(progress: Progress, rows: Rows, *tokens: int) -> tuple[list[int], list[int]]:
    indices, ends = progress.advance(rows, np.array(tokens))
    return indices.tolist(), ends


def test_each_row_gets_its_token_and_its_index() -> None:
    first, second = make_sequence(1), make_sequence(2)
    second.output = [7, 7]
    progress, rows = running(first, second)
    assert advance(progress, rows, 8, 9) == ([0, 2], [])
    assert advance(progress, rows, 5, 6) == ([1, 3], [])
    assert (first.output, second.output) == ([8, 5], [7, 7, 9, 6])


@pytest.mark.parametrize(
    ("params", "token", "may_end"),
    [
        ({}, EOS, True),
        ({}, 3, True),
        ({}, 9, False),
        ({"ignore_eos": True}, EOS, False),
        ({"min_tokens": 2}, EOS, False),
        ({"max_tokens": 1}, 9, True),
        ({"stop_token_ids": frozenset({9})}, 9, True),
        ({"forced_tokens": 2}, EOS, False),
        ({"forced_tokens": 1}, 9, True),
    ],
)
def test_a_row_is_looked_at_where_its_token_may_end_it(
    params: dict[str, Any], token: int, may_end: bool
) -> None:
    sequence = make_sequence(1, **params)
    progress, rows = running(sequence)
    assert bool(advance(progress, rows, token)[1]) == may_end
    if not may_end:
        assert sequence.ending(frozenset({EOS, 3})) is None


def test_a_row_is_alive_as_long_as_its_sequence_runs_as_it_did() -> None:
    first, second = make_sequence(1), make_sequence(2)
    _, rows = running(first, second)
    assert rows.alive() == [0, 1]
    first.run = 99  # gave way, and began again
    assert rows.alive() == [1]
    assert rows.only([1]).sequence_ids == (2,)
