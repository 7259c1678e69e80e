"""Runs the forward passes of a step and samples a token for each sequence.

It owns the model and the KV cache and knows sequences, but not why they run. Inputs
are gathered on the host in one array and copied once; sampled tokens come back in one
copy. Called by `engine` on the thread that owns all tensors.
"""

from __future__ import annotations

from collections.abc import Sequence as Items

import numpy as np
import torch
from torch import Tensor

from engine_svc.attention import ChunkTables, RowTables, step_attention
from engine_svc.kv_cache import KVCache
from engine_svc.model.decoder import Decoder, ForwardBatch
from engine_svc.sampler import Sampled, Sampler
from engine_svc.scheduler import Step
from engine_svc.sequence import Sequence


class Runner:
    """Prefill and decode on one device."""

    def __init__(self, model: Decoder, cache: KVCache, sampler: Sampler) -> None:
        self._model = model
        self._cache = cache
        self._sampler = sampler

    @torch.inference_mode()
    def run(self, step: Step) -> list[Sampled]:
        """One result for each of `step.sequences`.

        Leaves the sequences as they are, so that a step that ran out of memory
        (torch.OutOfMemoryError) can be run again in parts.
        """
        logits = []
        if step.prefill:
            logits.append(self._model.forward(self._prompts(step.prefill)))
        if step.decode:
            logits.append(self._model.forward(self._next_tokens(step.decode)))
        joined = logits[0] if len(logits) == 1 else torch.cat(logits)
        return self._sampler.sample(joined, step.sequences)

    @torch.inference_mode()
    def clear(self, sequence: Sequence) -> None:
        """Wipes what a failed sequence left in the cache."""
        self._cache.clear(sequence.blocks)

    def _prompts(self, sequences: Items[Sequence]) -> ForwardBatch:
        for sequence in sequences:
            self._cache.assign(sequence.place, sequence.blocks)
        lengths = [len(s.prompt) for s in sequences]
        places = np.repeat([s.place for s in sequences], lengths)
        positions = np.concatenate([np.arange(length) for length in lengths])
        tokens = np.concatenate([np.asarray(s.prompt, dtype=np.int64) for s in sequences])
        columns = self._to_device(tokens, positions, self._cache.slots(places, positions))
        starts = torch.from_numpy(np.cumsum([0, *lengths])).to(self._cache.device)
        places_of_chunks = self._to_device(np.array([s.place for s in sequences]))[0]
        longest = max(lengths)
        chunks = ChunkTables(
            query_starts=starts.int(),
            context_tokens=starts.diff().int(),
            tables=self._cache.tables(places_of_chunks, longest).int(),
            longest_query=longest,
            longest_context=longest,
        )
        attention = step_attention(self._cache, columns[2], chunks, None)
        return ForwardBatch(columns[0], columns[1], attention, logits_at=starts[1:] - 1)

    def _next_tokens(self, sequences: Items[Sequence]) -> ForwardBatch:
        tokens = np.array([s.last_token for s in sequences])
        places = np.array([s.place for s in sequences])
        lengths = np.array([s.length for s in sequences])
        slots = self._cache.slots(places, lengths - 1)
        columns = self._to_device(tokens, lengths - 1, slots, places, lengths)
        tables = self._cache.tables(columns[3], int(lengths.max()))
        rows = RowTables(tables.int(), columns[4].int())
        attention = step_attention(self._cache, columns[2], None, rows)
        return ForwardBatch(columns[0], columns[1], attention)

    def _to_device(self, *columns: np.ndarray) -> Tensor:
        return torch.from_numpy(np.stack(columns)).to(self._cache.device)
