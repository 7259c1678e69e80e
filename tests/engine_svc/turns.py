"""Runs an engine turn by turn, without a thread, and collects what it reports."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from engine_svc.assembly import Assembled
from engine_svc.engine import Engine, Flight
from engine_svc.kv_cache import CacheShape
from engine_svc.mailbox import Mailbox
from engine_svc.messages import Attach, Command, Failed, Finished, Report, Start, TokenLogprobs
from engine_svc.params import SamplingParams
from engine_svc.scheduler import Capacity
from engine_svc.sequence import Sequence as EngineSequence


class HasEngine(Protocol):
    """An engine of the assembly, or one with a script for a model."""

    @property
    def engine(self) -> Engine: ...
    @property
    def mailbox(self) -> Mailbox: ...
    @property
    def shape(self) -> CacheShape: ...


@dataclass(frozen=True)
class News:
    """A token of one sequence."""

    index: int
    token_id: int
    logprobs: TokenLogprobs | None


@dataclass
class Turns:
    """An engine and its reports so far."""

    assembled: HasEngine
    reports: list[Report] = field(default_factory=list)
    batches: int = 0
    in_flight: Flight | None = None

    def __post_init__(self) -> None:
        self.post(Attach(self.reports.append))

    def post(self, command: Command) -> None:
        self.assembled.mailbox.post(command)

    def start(self, *sequences: EngineSequence) -> None:
        self.batches += 1
        self.post(Start(self.batches, sequences))

    def turn(self, times: int = 1) -> None:
        for _ in range(times):
            self.assembled.engine.obey(wait=False)
            self.in_flight = self.assembled.engine.turn(self.in_flight)

    def until_idle(self) -> None:
        self.turn()
        while self.in_flight or self.capacity.running_sequences:
            self.turn()

    @property
    def capacity(self) -> Capacity:
        return [r.capacity for r in self.reports if r.capacity is not None][-1]

    @property
    def is_empty(self) -> bool:
        """Whether everything that an engine can give out is back."""
        shape = self.assembled.shape
        return self.capacity == Capacity(
            shape.max_sequences, shape.total_blocks * shape.block_tokens, 0
        )

    def news(self, sequence_id: int) -> list[News]:
        found = [
            News(index, token_id, (report.logprobs or {}).get(sequence_id))
            for report in self.reports
            for each, token_id, index in zip(
                report.sequence_ids, report.token_ids, report.indices, strict=True
            )
            if each == sequence_id
        ]
        assert [t.index for t in found] == list(range(len(found)))
        return found

    def tokens(self, sequence_id: int) -> list[int]:
        return [t.token_id for t in self.news(sequence_id)]

    def finished(self, sequence_id: int) -> Finished:
        (found,) = [f for r in self.reports for f in r.finished if f.sequence_id == sequence_id]
        return found

    def failed(self, sequence_id: int) -> Failed:
        (found,) = [f for r in self.reports for f in r.failed if f.sequence_id == sequence_id]
        return found


def make_sequence(
    sequence_id: int,
    prompt: Sequence[int] = (5, 6, 7),
    forced_tokens: int | None = None,
    kv_reservation_tokens: int | None = None,
    cache_salt: str = "",
    **params: Any,
) -> EngineSequence:
    return EngineSequence(
        sequence_id,
        tuple(prompt),
        SamplingParams(**{"max_tokens": 8, **params}),
        forced_tokens=forced_tokens,
        cache_salt=cache_salt,
        kv_reservation_tokens=kv_reservation_tokens,
    )


def alone(make_engine: Callable[..., Assembled], sequence: EngineSequence) -> list[int]:
    """The tokens that a sequence gets in an engine of its own."""
    turns = Turns(make_engine())
    turns.start(sequence)
    turns.until_idle()
    return turns.tokens(sequence.sequence_id)
