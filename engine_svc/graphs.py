"""CUDA graphs of forward passes: one launch in place of hundreds.

A graph has fixed sizes and fixed memory, so there is one for each of some sizes, and a
step runs in the smallest that holds it, padded. There are graphs of decode steps for
every batch, and of steps that also read some prompts: launching those kernel by kernel
takes 8 to 17 ms, more than they run. Captured once at the start; called by `runner`.
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
MIXED: Final = {
    128: (8, 32, 64, 96, 128, 160, 192, 224, 256),
    **dict.fromkeys((256, 512, 1024), (8, 64, 128, 192, 256)),
    **dict.fromkeys((2048, 4096), (8, 128, 256)),
}
"""Chunk tokens of the graphs that read prompts, with the rows that decode beside them."""
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
    return [
        Sizes(tokens, tokens // TOKENS_A_CHUNK, rows)
        for tokens, beside in MIXED.items()
        if tokens <= max_tokens
        for rows in sorted({min(rows, max_rows) for rows in beside})
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
    logits: tuple[Tensor, Tensor] | None
    """Logits and lengths, as of `ForwardPass.logits`; None where the graph samples."""

    def run(self, forward: ForwardPass, plan: Plan) -> Draws:
        """Replays it; what the graph does not sample is sampled by `plan`."""
        self.graph.replay()
        if self.logits is not None:
            return forward.sample(self.columns, *self.logits, plan)
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
            plans = (GREEDY, FILTERED, None) if each.chunks else (GREEDY, DRAWS, FILTERED, None)
            self._warm_up(each, plans)
            for plan in plans:
                self._capture(each, plan)
        self._sizes = sorted(self._vectors, key=lambda s: (s.tokens, s.rows))

    def find(self, sizes: Sizes, plan: Plan) -> Graph | None:
        """The smallest graph that a step fits into, or None."""
        for each in self._sizes:
            if bool(each.chunks) == bool(sizes.chunks) and _fits(sizes, each):
                return self._graphs.get((each, _kind(plan, mixed=each.chunks > 0)))
        return None

    def _warm_up(self, sizes: Sizes, plans: Iterable[Plan | None]) -> None:
        """Compiles what is to be compiled, which cannot be captured."""
        columns = cut(self._vectors[sizes], sizes)
        logits, lengths = self._forward.logits(columns, sizes, self._longest(sizes))
        for plan in plans:
            if plan is not None:
                self._forward.sample(columns, logits, lengths, plan)
        self._shared(logits)
        torch.cuda.synchronize()

    def _capture(self, sizes: Sizes, plan: Plan | None) -> None:
        vector = self._vectors[sizes]
        columns = cut(vector, sizes)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            draws, logits = self._pass(columns, sizes, plan)
        self._graphs[sizes, plan] = Graph(sizes, vector, columns, graph, draws, logits)

    def _pass(
        self, columns: Columns[Tensor], sizes: Sizes, plan: Plan | None
    ) -> tuple[Draws | None, tuple[Tensor, Tensor] | None]:
        logits, lengths = self._forward.logits(columns, sizes, self._longest(sizes))
        if plan is not None:
            return self._forward.sample(columns, logits, lengths, plan), None
        kept = self._shared(logits)
        kept.copy_(logits)
        return None, (kept, lengths)

    def _longest(self, sizes: Sizes) -> Longest:
        return Longest(sizes.tokens, self._max_context_tokens)

    def _shared(self, logits: Tensor) -> Tensor:
        """One place for the logits of all sizes: each graph would keep its own."""
        if self._logits is None or len(self._logits) < len(logits):
            self._logits = torch.empty_like(logits)
        return self._logits[: len(logits)]


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
