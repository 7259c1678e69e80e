"""CUDA graphs of forward passes: one launch in place of hundreds.

A graph has fixed sizes and fixed memory, so there is one for each of some sizes, and a
step runs in the smallest that holds it, padded. Decode steps have graphs for every
batch; where the model is so small that launching is what takes time, steps that also
read a few prompts have them too. Captured once at the start; called by `runner`.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, cast

import torch
from torch import Tensor

from engine_svc.forward_pass import ForwardPass, Longest
from engine_svc.sampler import Draws
from engine_svc.sampling_plan import Plan
from engine_svc.step_inputs import Columns, Sizes, cut

ROWS: Final = (1, 2, 4, 8, 16, 24, 32, 48, 64, 80, 96, 112, 128, 160, 192, 224, 256, 320, 384, 512)
MIXED_ROWS: Final = (8, 32, 64, 96, 128, 160, 192, 224, 256)
MIXED_TOKENS: Final = (128, 256, 512, 1024)
"""Chunk tokens of the graphs that read prompts."""
TOKENS_A_CHUNK: Final = 64
"""One chunk for so many tokens, on average, fits into such a graph."""
GREEDY: Final = Plan()
DRAWS: Final = Plan(draws=True)
FILTERED: Final = Plan(draws=True, filters=True)


def decode_sizes(max_rows: int) -> list[Sizes]:
    """Sizes of decode steps, the last one for the full batch if that is not too large."""
    rows = {min(rows, max_rows) for rows in ROWS}
    return [Sizes(0, 0, each) for each in sorted(rows)]


def mixed_sizes(max_rows: int, max_tokens: int) -> list[Sizes]:
    """Sizes of steps that read prompts while others decode."""
    rows = sorted({min(rows, max_rows) for rows in MIXED_ROWS})
    return [
        Sizes(tokens, tokens // TOKENS_A_CHUNK, each)
        for tokens in MIXED_TOKENS
        if tokens <= max_tokens
        for each in rows
    ]


@dataclass(frozen=True, slots=True)
class Graph:
    """A captured pass: write `vector`, replay, read the draws (or sample the logits)."""

    sizes: Sizes
    vector: Tensor
    """Inputs, int64 [sizes.total]; shared by all graphs of these sizes."""
    columns: Columns[Tensor]
    graph: torch.cuda.CUDAGraph
    draws: Draws | None
    """None where the graph ends with the logits."""
    logits: Tensor | None
    """None where it samples."""

    def run(self, forward: ForwardPass, plan: Plan) -> Draws:
        """Replays it; what the graph does not sample is sampled by `plan`."""
        self.graph.replay()
        if self.logits is not None:
            return forward.sample(self.columns, self.logits, plan)
        return cast(Draws, self.draws)


class Graphs:
    """All graphs of an engine, in one pool of memory."""

    def __init__(self, forward: ForwardPass, max_context_tokens: int) -> None:
        self._forward = forward
        self._max_context_tokens = max_context_tokens
        self._graphs: dict[tuple[Sizes, Plan | None], Graph] = {}
        self._vectors: dict[Sizes, Tensor] = {}
        self._sizes: list[Sizes] = []
        self._pool: Any = None
        self._logits: Tensor | None = None

    def capture(self, sizes: Iterable[Sizes], padding_place: int, device: torch.device) -> None:
        """Captures the passes of these sizes, every kind of sampling that can be."""
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        # From the largest: the smaller ones find its memory in the pool.
        for each in sorted(sizes, key=lambda s: (s.tokens, s.rows), reverse=True):
            vector = torch.zeros(each.total, dtype=torch.int64, device=device)
            columns = cut(vector, each)
            columns.places.fill_(padding_place)
            columns.chunk_places.fill_(padding_place)
            columns.last_positions.fill_(-1)
            columns.slots.fill_(-1)
            self._vectors[each] = vector
            for plan in (GREEDY, FILTERED) if each.chunks else (GREEDY, DRAWS, FILTERED, None):
                self._capture(each, plan)
        self._sizes = sorted(self._vectors, key=lambda s: (s.tokens, s.rows))

    def find(self, sizes: Sizes, plan: Plan) -> Graph | None:
        """The smallest graph that a step fits into, or None."""
        for each in self._sizes:
            if bool(each.chunks) == bool(sizes.chunks) and _fits(sizes, each):
                return self._graphs.get((each, _kind(plan, mixed=each.chunks > 0)))
        return None

    def _capture(self, sizes: Sizes, plan: Plan | None) -> None:
        vector = self._vectors[sizes]
        columns = cut(vector, sizes)
        self._pass(columns, sizes, plan)  # compiles what is to be compiled
        torch.cuda.synchronize()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            draws, logits = self._pass(columns, sizes, plan)
        self._graphs[sizes, plan] = Graph(sizes, vector, columns, graph, draws, logits)

    def _pass(
        self, columns: Columns[Tensor], sizes: Sizes, plan: Plan | None
    ) -> tuple[Draws | None, Tensor | None]:
        longest = Longest(sizes.tokens, self._max_context_tokens)
        logits = self._forward.logits(columns, sizes, longest)
        if plan is not None:
            return self._forward.sample(columns, logits, plan), None
        # One place for the logits of all sizes, or each graph would keep its own.
        if self._logits is None:
            self._logits = torch.empty_like(logits)
        kept = self._logits[: len(logits)]
        kept.copy_(logits)
        return None, kept


def _fits(sizes: Sizes, graph: Sizes) -> bool:
    return (
        sizes.tokens <= graph.tokens and sizes.chunks <= graph.chunks and sizes.rows <= graph.rows
    )


def _kind(plan: Plan, *, mixed: bool) -> Plan | None:
    """The sampling of the graph that serves a plan: the cheapest that covers it."""
    if not plan.capturable:
        return None
    if not plan.draws:
        return GREEDY
    return FILTERED if plan.filters or mixed else DRAWS
