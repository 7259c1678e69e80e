"""A runner that gives each sequence the tokens of a script, in place of a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch

from engine_svc.blocks import BlockAccounting
from engine_svc.engine import Engine
from engine_svc.kv_cache import CacheShape
from engine_svc.mailbox import Mailbox
from engine_svc.sampler import NUMERIC_FAULT, Sampled
from engine_svc.scheduler import Scheduler, Step
from engine_svc.sequence import Sequence as EngineSequence

EOS = 0
SHAPE = CacheShape(total_blocks=64, block_tokens=16, max_sequences=4, max_context_tokens=256)


def script(text: str) -> list[int]:
    """Tokens of a text: its UTF-8 bytes, then end-of-sequence."""
    return [*text.encode(), EOS]


@dataclass
class ScriptedRunner:
    """Runs out of memory where `fits` says no; a script that has ended gives NaN."""

    scripts: Mapping[int, Sequence[int]]
    fits: Callable[[Step], bool] = lambda _: True
    steps: list[Step] = field(default_factory=list)
    cleared: list[tuple[int, ...]] = field(default_factory=list)

    def run(self, step: Step) -> list[Sampled]:
        if not self.fits(step):
            raise torch.OutOfMemoryError
        self.steps.append(step)
        return [Sampled(self._token(sequence)) for sequence in step.sequences]

    def clear(self, sequence: EngineSequence) -> None:
        self.cleared.append(sequence.blocks)

    def _token(self, sequence: EngineSequence) -> int:
        answer = self.scripts[sequence.sequence_id]
        at = len(sequence.output)
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
    shape: CacheShape = SHAPE


def scripted(runner: ScriptedRunner, shape: CacheShape = SHAPE) -> ScriptedEngine:
    blocks = BlockAccounting(shape.total_blocks, shape.block_tokens)
    mailbox = Mailbox()
    engine = Engine(
        scheduler=Scheduler(blocks, max_sequences=shape.max_sequences, max_prefill_tokens=256),
        runner=runner,
        eos_token_ids=frozenset({EOS}),
        mailbox=mailbox,
        clock=Clock(),
    )
    return ScriptedEngine(engine, mailbox, shape)
