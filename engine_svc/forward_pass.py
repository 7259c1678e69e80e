"""One forward pass from the columns of a step to its tokens, all of it on the device.

Nothing here asks the host or waits for it, so that a pass of fixed sizes can be captured
in a CUDA graph (`graphs`). Decode rows know their token, position and cell from the
tables of their place. Called by `runner` and `graphs`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from engine_svc.attention import ChunkTables, RowTables, step_attention
from engine_svc.batch_tables import BatchTables
from engine_svc.kv_cache import KVCache
from engine_svc.model.decoder import Decoder, ForwardBatch
from engine_svc.sampler import DeviceSampler, Draws
from engine_svc.sampling_plan import Plan
from engine_svc.step_inputs import Columns, Sizes


@dataclass(frozen=True, slots=True)
class Longest:
    """Bounds of a step's chunks, which the host must know to start kernels."""

    query: int
    """At least the tokens of the longest chunk."""
    context: int
    """At least the tokens that a chunk looks back on, itself counted."""


class ForwardPass:
    """A model with the tables and the cache of its running batch."""

    def __init__(
        self, model: Decoder, cache: KVCache, tables: BatchTables, sampler: DeviceSampler
    ) -> None:
        self._model = model
        self._cache = cache
        self._tables = tables
        self._sampler = sampler

    def __call__(
        self, columns: Columns[Tensor], sizes: Sizes, longest: Longest, plan: Plan
    ) -> Draws:
        """Tokens of all results: int64 [chunks + rows]."""
        return self.sample(columns, self.logits(columns, sizes, longest), plan)

    def logits(self, columns: Columns[Tensor], sizes: Sizes, longest: Longest) -> Tensor:
        """Logits of all results: [chunks + rows, vocabulary]."""
        read, first = sizes.tokens, sizes.chunks
        if first:
            self._tables.positions.scatter_(0, columns.places[:first], columns.last_positions)
        if not sizes.rows:
            return self._model.forward(
                ForwardBatch(
                    columns.token_ids,
                    columns.positions,
                    step_attention(
                        self._cache, columns.slots, self._chunks(columns, longest), None
                    ),
                    columns.last_tokens,
                )
            )
        row = self._rows(columns.places[first:])
        if not first:
            attention = step_attention(self._cache, row.slots, None, row.attended)
            return self._model.forward(ForwardBatch(row.token_ids, row.positions, attention))
        slots = torch.cat((columns.slots, row.slots))
        chunks = self._chunks(columns, longest)
        every_row = torch.arange(read, read + sizes.rows, device=slots.device)
        return self._model.forward(
            ForwardBatch(
                torch.cat((columns.token_ids, row.token_ids)),
                torch.cat((columns.positions, row.positions)),
                step_attention(self._cache, slots, chunks, row.attended),
                torch.cat((columns.last_tokens, every_row)),
            )
        )

    def sample(self, columns: Columns[Tensor], logits: Tensor, plan: Plan) -> Draws:
        """Draws for all results, and moves their places on by a token."""
        lengths = self._tables.positions[columns.places] + 1
        draws = self._sampler.sample(logits, columns.places, lengths, plan)
        self._tables.positions.index_add_(0, columns.places, columns.counts)
        return draws

    def _chunks(self, columns: Columns[Tensor], longest: Longest) -> ChunkTables:
        return ChunkTables(
            query_starts=columns.query_starts.int(),
            context_tokens=columns.context_tokens.int(),
            tables=self._tables.blocks[columns.chunk_places],
            longest_query=longest.query,
            longest_context=longest.context,
        )

    def _rows(self, places: Tensor) -> _Rows:
        positions = self._tables.positions[places]
        # The padding place stands at -1: its context is empty and its cell is none.
        at = positions.clamp(min=0)
        size = self._tables.block_tokens
        tables = self._tables.blocks[places]
        blocks = tables.gather(1, (at // size).unsqueeze(1)).squeeze(1)
        slots = torch.where(positions < 0, -1, blocks * size + at % size)
        attended = RowTables(tables, (positions + 1).int())
        return _Rows(self._sampler.last_tokens[places], at, slots, attended)


@dataclass(frozen=True, slots=True)
class _Rows:
    """The decode rows' part of the forward pass."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    attended: RowTables
