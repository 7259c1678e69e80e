"""Launches the forward passes of steps and brings their tokens to the host.

It owns the tables of the running batch, and knows sequences but not why they run. What
a step must be told goes to the device in one copy, and nothing goes where the same
sequences decode once more. Called by `engine` on the thread that owns all tensors.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_svc.batch_tables import BatchTables, to_device
from engine_svc.forward_pass import ForwardPass, Longest
from engine_svc.graphs import Graph, Graphs
from engine_svc.kv_cache import KVCache
from engine_svc.model.decoder import Decoder
from engine_svc.params import SamplingParams
from engine_svc.results import Results
from engine_svc.sampler import DeviceSampler, Draws, Logprobs
from engine_svc.sampling_plan import PlanTally
from engine_svc.sequence import Sequence
from engine_svc.step import Cell, Step
from engine_svc.step_inputs import Columns, Sizes, cut, packed, sizes_of


@dataclass(frozen=True, slots=True)
class Launched:
    """A pass that may still be running: its tokens are on their way to the host."""

    tokens: Tensor
    logprobs: Logprobs | None
    rows: list[int] | slice
    """Which of the pass's results belong to somebody."""
    wanted: tuple[tuple[int, int], ...]
    """Rows that asked for log-probabilities, with how many alternatives."""
    done: torch.cuda.Event | None

    def wait(self) -> Results:
        """The results, once they are there."""
        if self.done is not None:
            self.done.synchronize()
        tokens = self.tokens.numpy()[self.rows]
        if self.logprobs is None or not self.wanted:
            return Results(tokens)
        at = self.rows if isinstance(self.rows, list) else range(len(tokens))
        logprobs = {row: self.logprobs.of(at[row], count) for row, count in self.wanted}
        return Results(tokens, logprobs)


class Runner:
    """Chunks and decode rows on one device."""

    def __init__(
        self,
        model: Decoder,
        cache: KVCache,
        tables: BatchTables,
        sampler: DeviceSampler,
        graphs: Graphs | None = None,
    ) -> None:
        self._cache = cache
        self._tables = tables
        self._sampler = sampler
        self._graphs = graphs
        self.forward = ForwardPass(model, cache, tables, sampler)
        self._plans = PlanTally()
        self._begun: dict[int, SamplingParams] = {}
        # Inputs of decode steps that are on the device: sizes → the rows that they are of.
        self._loaded: dict[Sizes, tuple[tuple[Sequence, ...], Columns[Tensor]]] = {}

    @property
    def device(self) -> torch.device:
        """Where it runs."""
        return self._tables.device

    def use(self, graphs: Graphs) -> None:
        """Replays graphs from now on where one fits."""
        self._graphs = graphs

    @torch.inference_mode()
    def begin(self, started: Items[Sequence], cells: Items[Cell]) -> None:
        """Sequences have got their places, and the block table has changed."""
        self._tables.write(cells)
        if not started:
            return
        self._sampler.start([s.place for s in started], started)
        for sequence in started:
            if sequence.sequence_id not in self._begun:
                self._begun[sequence.sequence_id] = sequence.params
                self._plans.add(sequence.params)

    @torch.inference_mode()
    def launch(self, step: Step) -> Launched:
        """Starts the forward pass of a step, a token for each of `step.sampled`.

        Raises torch.OutOfMemoryError, and can then be called again with parts of the step.
        """
        sizes = sizes_of(step)
        plan = self._plans.plan
        graph = self._graphs.find(sizes, plan) if self._graphs else None
        if graph is None:
            columns = self._columns(step, sizes)
            draws = self.forward(columns, sizes, _longest(step), plan)
        else:
            self._load(graph, step)
            draws = graph.run(self.forward, plan)
        return self._launched(step, draws, (graph.sizes if graph else sizes).chunks)

    def end(self, sequence: Sequence) -> None:
        """A sequence that began is not coming back; nothing for one that did not begin."""
        if (params := self._begun.pop(sequence.sequence_id, None)) is not None:
            self._plans.remove(params)

    @torch.inference_mode()
    def clear(self, blocks: Items[int]) -> None:
        """Wipes blocks that a failed sequence spoiled."""
        self._cache.clear(blocks)

    def _columns(self, step: Step, sizes: Sizes) -> Columns[Tensor]:
        if not step.chunks and (known := self._loaded.get(sizes)) and known[0] is step.decode:
            return known[1]
        vector = to_device(packed(step, sizes, self._tables), self._tables.device)
        columns = cut(vector, sizes)
        if not step.chunks:
            self._loaded = {sizes: (step.decode, columns)}
        return columns

    def _load(self, graph: Graph, step: Step) -> None:
        if not step.chunks:
            known = self._loaded.get(graph.sizes)
            if known is not None and known[0] is step.decode:
                return
            self._loaded = {graph.sizes: (step.decode, graph.columns)}
        host = torch.from_numpy(packed(step, graph.sizes, self._tables)).pin_memory()
        graph.vector.copy_(host, non_blocking=True)

    def _launched(self, step: Step, draws: Draws, chunk_results: int) -> Launched:
        rows: list[int] | slice = slice(0, len(step.decode))
        if step.chunks:
            last = [row for row, chunk in enumerate(step.chunks) if chunk.last]
            rows = [*last, *range(chunk_results, chunk_results + len(step.decode))]
        wanted: tuple[tuple[int, int], ...] = ()
        if draws.logprobs is not None:
            counts = enumerate(s.params.logprobs for s in step.sampled)
            wanted = tuple((row, count) for row, count in counts if count is not None)
        tokens, logprobs = _to_host(draws)
        done = None
        if draws.tokens.is_cuda:
            done = torch.cuda.Event()  # type: ignore[no-untyped-call]
            done.record()
        return Launched(tokens, logprobs, rows, wanted, done)


def _longest(step: Step) -> Longest:
    return Longest(
        query=max((chunk.tokens for chunk in step.chunks), default=0),
        context=max((chunk.start + chunk.tokens for chunk in step.chunks), default=0),
    )


def _to_host(draws: Draws) -> tuple[Tensor, Logprobs | None]:
    """Copies into pinned memory, not waited for; on CPU the tensors themselves."""
    tokens = draws.tokens.to("cpu", non_blocking=True)
    if draws.logprobs is None:
        return tokens, None
    columns = (draws.logprobs.chosen, draws.logprobs.top_tokens, draws.logprobs.top_values)
    return tokens, Logprobs(*(column.to("cpu", non_blocking=True) for column in columns))
