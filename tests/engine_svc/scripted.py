"""A runner that gives each sequence the tokens of a script, in place of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from engine_svc.blocks import BlockAccounting
from engine_svc.engine import Engine
from engine_svc.kv_cache import CacheShape
from engine_svc.mailbox import Mailbox
from engine_svc.results import NUMERIC_FAULT, Results
from engine_svc.scheduler import Scheduler
from engine_svc.sequence import Sequence as EngineSequence
from engine_svc.step import Cell, Step

EOS = 0
SHAPE = CacheShape(total_blocks=64, block_tokens=16, max_sequences=4, max_context_tokens=256)


def script(text: str) -> list[int]:
    """Tokens of a text: its UTF-8 bytes, then end-of-sequence."""
    return [*text.encode(), EOS]


@dataclass(frozen=True)
class Scripted:
    """Results that are there already."""

    results: Results

    def wait(self) -> Results:
        return self.results


@dataclass
class ScriptedRunner:
    """Runs out of memory where `fits` says no; a script that has ended gives NaN.

    Like a device it counts the tokens itself, which the host may not have seen yet.
    """

    scripts: Mapping[int, Sequence[int]]
    fits: Callable[[Step], bool] = lambda _: True
    steps: list[Step] = field(default_factory=list)
    cleared: list[list[int]] = field(default_factory=list)
    begun: set[int] = field(default_factory=set)
    cells: list[Cell] = field(default_factory=list)
    at: dict[int, int] = field(default_factory=dict)

    def begin(self, started: Sequence[EngineSequence], cells: Sequence[Cell]) -> None:
        self.begun |= {sequence.sequence_id for sequence in started}
        self.at |= {sequence.sequence_id: len(sequence.output) for sequence in started}
        self.cells += cells

    def launch(self, step: Step) -> Scripted:
        if not self.fits(step):
            raise torch.OutOfMemoryError
        self.steps.append(step)
        tokens = [self._token(sequence.sequence_id) for sequence in step.sampled]
        return Scripted(Results(np.array(tokens, dtype=np.int64)))

    def end(self, sequence: EngineSequence) -> None:
        self.begun.discard(sequence.sequence_id)

    def clear(self, blocks: Sequence[int]) -> None:
        self.cleared.append(list(blocks))

    def ran(self) -> list[list[int]]:
        """The sequences of each step."""
        return [sorted(s.sequence_id for s in step.sampled) for step in self.steps]

    def _token(self, sequence_id: int) -> int:
        at = self.at[sequence_id]
        self.at[sequence_id] += 1
        answer = self.scripts[sequence_id]
        return answer[at] if at < len(answer) else NUMERIC_FAULT


class Clock:
    """Moves on by a second each time it is read."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        self.now_s += 1.0
        return self.now_s


@dataclass(frozen=True)
class ScriptedEngine:
    """What `turns.Turns` needs of an assembled engine."""

    engine: Engine
    mailbox: Mailbox
    scheduler: Scheduler
    shape: CacheShape = SHAPE


def scripted(
    runner: ScriptedRunner,
    shape: CacheShape = SHAPE,
    *,
    overlap: bool = False,
    max_prefill_tokens: int = 256,
) -> ScriptedEngine:
    scheduler = Scheduler(
        BlockAccounting(shape.total_blocks, shape.block_tokens),
        max_sequences=shape.max_sequences,
        max_prefill_tokens=max_prefill_tokens,
    )
    mailbox = Mailbox()
    engine = Engine(
        scheduler=scheduler,
        runner=runner,
        eos_token_ids=frozenset({EOS}),
        mailbox=mailbox,
        overlap=overlap,
        clock=Clock(),
    )
    return ScriptedEngine(engine, mailbox, scheduler, shape)
