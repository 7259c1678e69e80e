from __future__ import annotations

import torch

from engine_svc.batch_tables import BatchTables
from engine_svc.kv_cache import CacheShape
from engine_svc.sequence import Sequence
from engine_svc.step import Cell, Chunk, Step
from engine_svc.step_inputs import Sizes, cut, packed, sizes_of

from .turns import make_sequence

CPU = torch.device("cpu")
SHAPE = CacheShape(total_blocks=20, block_tokens=4, max_sequences=3, max_context_tokens=40)


def tables() -> BatchTables:
    made = BatchTables(SHAPE, CPU)
    made.write([Cell(0, 0, 9), Cell(0, 1, 5), Cell(1, 0, 7), Cell(1, 1, 3), Cell(1, 2, 4)])
    return made


def placed(place: int, length: int) -> Sequence:
    sequence = make_sequence(place, range(100 * place, 100 * place + length))
    sequence.place = place
    return sequence


def step() -> Step:
    whole, piece = placed(0, 3), placed(1, 12)
    chunks = (Chunk(piece, 5, 4, last=False), Chunk(whole, 0, 3, last=True))
    return Step(chunks, (placed(2, 1),))


def test_chunks_lie_one_after_another() -> None:
    sizes = sizes_of(step())
    assert sizes == Sizes(7, 2, 1)
    columns = cut(packed(step(), sizes, tables()), sizes)
    assert columns.token_ids.tolist() == [105, 106, 107, 108, 0, 1, 2]
    assert columns.positions.tolist() == [5, 6, 7, 8, 0, 1, 2]
    assert columns.slots.tolist() == [3 * 4 + 1, 3 * 4 + 2, 3 * 4 + 3, 4 * 4, 36, 37, 38]
    assert columns.query_starts.tolist() == [0, 4, 7]
    assert columns.context_tokens.tolist() == [9, 3]
    assert columns.chunk_places.tolist() == [1, 0]
    assert columns.last_tokens.tolist() == [3, 6]


def test_a_token_is_for_somebody_where_a_chunk_is_the_last_and_in_each_row() -> None:
    sizes = sizes_of(step())
    columns = cut(packed(step(), sizes, tables()), sizes)
    assert columns.last_positions.tolist() == [-1, 2]
    assert columns.places.tolist() == [3, 0, 2]
    assert columns.counts.tolist() == [0, 1, 1]


def test_larger_sizes_are_padded_with_what_nobody_gets() -> None:
    sizes = Sizes(10, 4, 3)
    columns = cut(packed(step(), sizes, tables()), sizes)
    assert columns.slots.tolist()[7:] == [-1, -1, -1]
    assert columns.query_starts.tolist() == [0, 4, 7, 7, 7]
    assert columns.context_tokens.tolist() == [9, 3, 0, 0]
    assert columns.chunk_places.tolist() == [1, 0, 3, 3]
    assert columns.last_positions.tolist() == [-1, 2, -1, -1]
    assert columns.places.tolist() == [3, 0, 3, 3, 2, 3, 3]
    assert columns.counts.tolist() == [0, 1, 0, 0, 1, 0, 0]


def test_decode_rows_alone_need_their_places_only() -> None:
    alone = Step((), (placed(2, 1), placed(1, 1)))
    columns = cut(packed(alone, Sizes(0, 0, 4), tables()), Sizes(0, 0, 4))
    assert columns.places.tolist() == [2, 1, 3, 3]
    assert columns.counts.tolist() == [1, 1, 0, 0]


def test_a_chunk_after_a_preemption_reads_the_answer_so_far() -> None:
    sequence = placed(0, 3)
    sequence.output = [50, 51]
    sizes = Sizes(5, 1, 0)
    columns = cut(packed(Step((Chunk(sequence, 0, 5, last=True),), ()), sizes, tables()), sizes)
    assert columns.token_ids.tolist() == [0, 1, 2, 50, 51]
    assert columns.last_positions.tolist() == [4]


def test_the_block_table_on_the_device_is_that_on_the_host() -> None:
    made = tables()
    made.write([Cell(1, 1, 8)])
    assert made.blocks[:, :3].tolist() == [[9, 5, 0], [7, 8, 4], [0, 0, 0], [0, 0, 0]]
    assert made._host_blocks.tolist() == made.blocks.tolist()
