"""Prompts with the lengths that their answers really had, and which of them a run takes.

Owns the draw: every prompt once before any comes twice, in an order that the seed alone
decides. Knows no file: rows come from the command line's reader, or from a trace.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass

from ssjf_bench.trace import Trace
from ssjf_bench.workload import Request


@dataclass(frozen=True, slots=True)
class Answered:
    """A prompt and the length of one answer to it."""

    prompt_id: str
    """Its name in the file; several rows may have the same."""
    prompt: str
    """What the user says last."""
    turns: tuple[tuple[str, str], ...]
    """The messages before, each (role, content)."""
    llm: str
    """Who answered; empty where the file does not say."""
    output_tokens: int
    """Length of the answer, at least 1."""


def draw(rows: Sequence[Answered], jobs: int, seed: int) -> list[Answered]:
    """`jobs` rows in random order, all of them before any comes again. Raises ValueError."""
    if not rows:
        raise ValueError("lengths: no row with a length")
    order = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    drawn: list[Answered] = []
    while len(drawn) < jobs:
        drawn += order.sample(rows, min(len(rows), jobs - len(drawn)))
    return drawn


def requests(rows: Sequence[Answered], seed: int) -> tuple[Request, ...]:
    """A request for each row, its answer's length fixed; named by its place."""
    longest = max(row.output_tokens for row in rows)
    return tuple(
        Request(
            request_id=f"{index}",
            prompt=row.prompt,
            max_tokens=longest,
            temperature=0.0,
            seed=seed + index,
            turns=row.turns,
            llm=row.llm,
            output_tokens=row.output_tokens,
        )
        for index, row in enumerate(rows)
    )


def from_trace(trace: Trace, jobs: int) -> list[Answered]:
    """The trace's own output lengths, without prompts. Raises ValueError for too many jobs."""
    if jobs > len(trace.output_tokens):
        raise ValueError(f"lengths: {jobs} jobs, but the trace has {len(trace.output_tokens)}")
    return [Answered("", "", (), "", tokens) for tokens in trace.output_tokens[:jobs]]
