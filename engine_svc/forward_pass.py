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
from engine_svc.row_inputs import RowInputs, row_inputs
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
        logits, lengths = self.logits(columns, sizes, longest)
        return self.sample(columns, logits, lengths, plan)

    def logits(
        self, columns: Columns[Tensor], sizes: Sizes, longest: Longest
    ) -> tuple[Tensor, Tensor]:
        """Logits of all results [chunks + rows, vocabulary], and the tokens before each.

        The latter int64 [chunks + rows], prompt and answer.
        """
        if not sizes.chunks:
            return self._decode(columns)
        if not sizes.rows:
            return self._read(columns, longest)
        row = self._rows(columns, sizes.chunks)
        slots = torch.cat((columns.slots, row.slots))
        attended = RowTables(row.blocks, row.context_tokens)
        every_row = torch.arange(sizes.tokens, sizes.tokens + sizes.rows, device=slots.device)
        batch = ForwardBatch(
            torch.cat((columns.token_ids, row.token_ids)),
            torch.cat((columns.positions, row.positions)),
            step_attention(self._cache, slots, self._chunks(columns, longest), attended),
            torch.cat((columns.last_tokens, every_row)),
        )
        return self._model.forward(batch), torch.cat((columns.last_positions + 1, row.lengths))

    def sample(
        self, columns: Columns[Tensor], logits: Tensor, lengths: Tensor, plan: Plan
    ) -> Draws:
        """Draws for all results, and moves their places on by a token."""
        draws = self._sampler.sample(logits, columns.places, lengths, plan)
        self._tables.positions.index_add_(0, columns.places, columns.counts)
        return draws

    def _decode(self, columns: Columns[Tensor]) -> tuple[Tensor, Tensor]:
        row = self._rows(columns, 0)
        attended = RowTables(row.blocks, row.context_tokens)
        attention = step_attention(self._cache, row.slots, None, attended)
        batch = ForwardBatch(row.token_ids, row.positions, attention)
        return self._model.forward(batch), row.lengths

    def _read(self, columns: Columns[Tensor], longest: Longest) -> tuple[Tensor, Tensor]:
        self._place(columns)
        chunks = self._chunks(columns, longest)
        attention = step_attention(self._cache, columns.slots, chunks, None)
        batch = ForwardBatch(columns.token_ids, columns.positions, attention, columns.last_tokens)
        return self._model.forward(batch), columns.last_positions + 1

    def _place(self, columns: Columns[Tensor]) -> None:
        """Where the sequences stand whose last chunk this is: `sample` moves them on."""
        chunks = len(columns.last_positions)
        self._tables.positions.scatter_(0, columns.places[:chunks], columns.last_positions)

    def _rows(self, columns: Columns[Tensor], chunks: int) -> RowInputs:
        if chunks:
            self._place(columns)
        return row_inputs(self._tables, self._sampler.last_tokens, columns.places[chunks:])

    def _chunks(self, columns: Columns[Tensor], longest: Longest) -> ChunkTables:
        return ChunkTables(
            query_starts=columns.query_starts.int(),
            context_tokens=columns.context_tokens.int(),
            tables=self._tables.blocks[columns.chunk_places],
            longest_query=longest.query,
            longest_context=longest.context,
        )
