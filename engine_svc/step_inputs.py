"""Everything that a step's forward pass must be told, in one vector of integers.

Filled on the host, copied to the device at once, and cut into columns there: a copy
costs the same for one number as for thousands. Sizes may be larger than the step needs,
as CUDA graphs want them; what pads is stored nowhere and sampled for nobody. Called by
`runner`; the columns are read by `forward_pass`.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np
from torch import Tensor

from engine_svc.batch_tables import BatchTables, Integers
from engine_svc.sequence import Sequence
from engine_svc.step import Chunk, Step

Vector = TypeVar("Vector", Tensor, Integers)


@dataclass(frozen=True, slots=True)
class Sizes:
    """How long the columns are."""

    tokens: int
    """Tokens of chunks."""
    chunks: int
    """Chunks, each of which has a result."""
    rows: int
    """Sequences that decode."""

    @property
    def total(self) -> int:
        """Integers of all columns."""
        return 3 * self.tokens + 7 * self.chunks + 2 * self.rows + 1


def sizes_of(step: Step) -> Sizes:
    """What the step needs at least."""
    tokens = sum(chunk.tokens for chunk in step.chunks)
    return Sizes(tokens, len(step.chunks), len(step.decode))


@dataclass(frozen=True, slots=True)
class Columns(Generic[Vector]):
    """The parts of the vector; "results" are a row for each chunk, then one a decode row."""

    token_ids: Vector
    """[tokens]"""
    positions: Vector
    """[tokens], in their sequence."""
    slots: Vector
    """[tokens], cells of the cache; -1: padding."""
    query_starts: Vector
    """[chunks + 1], where each chunk begins, and the end."""
    context_tokens: Vector
    """[chunks], tokens of the sequence up to the chunk's end."""
    chunk_places: Vector
    """[chunks]"""
    last_tokens: Vector
    """[chunks], index of each chunk's last token in the step."""
    last_positions: Vector
    """[chunks], its position; -1 where the chunk is not its sequence's last."""
    places: Vector
    """[chunks + rows], the place of each result; the padding place where nobody gets it."""
    counts: Vector
    """[chunks + rows], 1 where a token is sampled for somebody, else 0."""


def cut(vector: Vector, sizes: Sizes) -> Columns[Vector]:
    """Views of a vector of `sizes.total` integers."""
    tokens: int = sizes.tokens
    chunks: int = sizes.chunks
    results = chunks + sizes.rows
    lengths = (tokens, tokens, tokens, chunks + 1, *(chunks,) * 4, results, results)
    ends = np.cumsum(lengths).tolist()
    return Columns(*(vector[end - n : end] for n, end in zip(lengths, ends, strict=True)))


def packed(step: Step, sizes: Sizes, tables: BatchTables) -> Integers:
    """The vector of a step, int64 [sizes.total]."""
    vector = np.zeros(sizes.total, dtype=np.int64)
    columns = cut(vector, sizes)
    columns.places[:] = tables.padding_place
    if sizes.chunks:
        _fill_chunks(columns, step.chunks, tables)
    _fill_rows(columns, sizes.chunks, step.decode)
    return vector


def _fill_rows(columns: Columns[Integers], first: int, decode: Items[Sequence]) -> None:
    end = first + len(decode)
    columns.places[first:end] = [s.place for s in decode]
    columns.counts[first:end] = 1


def _fill_chunks(columns: Columns[Integers], chunks: Items[Chunk], tables: BatchTables) -> None:
    number = len(chunks)
    places = np.array([chunk.sequence.place for chunk in chunks])
    starts = np.array([chunk.start for chunk in chunks])
    counts = np.array([chunk.tokens for chunk in chunks])
    last = np.array([chunk.last for chunk in chunks])
    ends = np.cumsum(counts)
    total = int(ends[-1])
    # Each chunk counts on from its own start: [start₀, start₀ + 1, …, start₁, …].
    positions = np.arange(total) + np.repeat(starts - (ends - counts), counts)
    columns.token_ids[:total] = np.concatenate([_token_ids(chunk) for chunk in chunks])
    columns.positions[:total] = positions
    columns.slots[:total] = tables.slots(np.repeat(places, counts), positions)
    columns.slots[total:] = -1
    columns.query_starts[1 : number + 1] = ends
    columns.query_starts[number + 1 :] = total
    columns.context_tokens[:number] = starts + counts
    columns.chunk_places[:number] = places
    columns.chunk_places[number:] = tables.padding_place
    columns.last_tokens[:number] = ends - 1
    columns.last_positions[:] = -1
    columns.last_positions[:number][last] = (starts + counts - 1)[last]
    columns.places[:number][last] = places[last]
    columns.counts[:number] = last


def _token_ids(chunk: Chunk) -> Integers:
    tokens, end = chunk.sequence.tokens, chunk.start + chunk.tokens
    return np.array(tokens[chunk.start : end], dtype=np.int64)
