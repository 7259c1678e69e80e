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
    source: str = ""
    """Where the prompt comes from; empty where the file does not say."""


def draw(rows: Sequence[Answered], jobs: int, seed: int) -> list[Answered]:
    """`jobs` rows in random order, all of them before any comes again. Raises ValueError."""
    if not rows:
        raise ValueError("lengths: no row with a length")
    order = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    drawn: list[Answered] = []
    while len(drawn) < jobs:
        drawn += order.sample(rows, min(len(rows), jobs - len(drawn)))
    return drawn


def requests(
    rows: Sequence[Answered],
    seed: int,
    *,
    max_tokens: int | None = None,
    prompt_tokens: Sequence[int] | None = None,
) -> tuple[Request, ...]:
    """A request for each row, its answer's length fixed; named by its place.

    All name the same limit: `max_tokens`, which cuts longer answers, or the longest answer.
    `prompt_tokens` gives the prompts' lengths, in the order of the rows.
    """
    limit = max(row.output_tokens for row in rows) if max_tokens is None else max_tokens
    return tuple(
        Request(
            request_id=str(index),
            prompt=row.prompt,
            max_tokens=limit,
            temperature=0.0,
            seed=seed + index,
            turns=row.turns,
            llm=row.llm,
            prompt_tokens=1 if prompt_tokens is None else prompt_tokens[index],
            output_tokens=min(row.output_tokens, limit),
            prompt_id=row.prompt_id,
            source=row.source,
        )
        for index, row in enumerate(rows)
    )


def from_trace(trace: Trace, jobs: int) -> list[Answered]:
    """The trace's own output lengths, without prompts. Raises ValueError for too many jobs."""
    if jobs > len(trace.output_tokens):
        raise ValueError(f"lengths: {jobs} jobs, but the trace has {len(trace.output_tokens)}")
    return [Answered("", "", (), "", tokens) for tokens in trace.output_tokens[:jobs]]
