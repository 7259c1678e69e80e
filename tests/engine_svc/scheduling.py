"""A scheduler of a few blocks, and steps in a form that is easy to compare."""

from __future__ import annotations

from engine_svc.blocks import BlockAccounting
from engine_svc.scheduler import Scheduler
from engine_svc.sequence import Sequence
from engine_svc.step import Step


def scheduler(
    total_blocks: int = 8, max_sequences: int = 3, prefill: int = 100, *, reuse: bool = True
) -> Scheduler:
    return Scheduler(
        BlockAccounting(total_blocks, block_tokens=16),
        max_sequences=max_sequences,
        max_prefill_tokens=prefill,
        prefix_reuse=reuse,
    )


def read(step: Step) -> list[tuple[int, int, int, bool]]:
    """Sequence, start, tokens and whether it is the last, of each chunk."""
    return [(c.sequence.sequence_id, c.start, c.tokens, c.last) for c in step.chunks]


def read_first(step: Step) -> list[Sequence]:
    assert all(chunk.start == 0 for chunk in step.chunks)
    return [chunk.sequence for chunk in step.chunks]


def sampled(schedule: Scheduler, token: int = 7) -> Step:
    """The next step, its tokens appended at once."""
    step = schedule.schedule()
    for sequence in step.sampled:
        sequence.output.append(token)
    return step
