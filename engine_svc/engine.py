"""The engine loop: schedule → launch → commit, one step ahead of the results.

One thread runs it and owns all tensors. The next step is scheduled and launched before
the tokens of the last one are on the host, so the device never waits for Python; what
is in flight is carried from turn to turn. It knows neither gRPC nor asyncio nor text:
commands come out of a mailbox before each step, one report a step goes to the stream
that is attached. What a turn found is made into reports by `commit`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from collections.abc import Sequence as Items
from dataclasses import dataclass, replace
from typing import Final, Protocol

import torch

from engine_svc.commit import Commit, Outcome
from engine_svc.mailbox import Mailbox
from engine_svc.messages import (
    Attach,
    Cancel,
    Command,
    Detach,
    Drain,
    Failed,
    Report,
    Sink,
    Start,
    Stop,
)
from engine_svc.progress import Rows, rows_of
from engine_svc.results import Results
from engine_svc.scheduler import Capacity, Scheduler
from engine_svc.sequence import FailureCode, Sequence
from engine_svc.step import Cell, Step

CHECK_INTERVAL_S: Final = 10.0
"""Between looks at every single free block, which take milliseconds; their number is
checked whenever nothing runs."""


class Pending(Protocol):
    """A forward pass that may still be running on the device."""

    def wait(self) -> Results:
        """Its results, a row for each of `Step.sampled`."""


class StepRunner(Protocol):
    """What the loop needs of `runner.Runner`."""

    def begin(self, started: Items[Sequence], cells: Items[Cell]) -> None:
        """Sequences have got their places, and the block table has changed."""

    def launch(self, step: Step) -> Pending:
        """Starts the forward pass of a step; torch.OutOfMemoryError changes nothing."""

    def end(self, sequence: Sequence) -> None:
        """A sequence that began is not coming back."""

    def clear(self, blocks: Items[int]) -> None:
        """Wipes blocks that a failed sequence spoiled."""


@dataclass(frozen=True, slots=True)
class Flight:
    """A step that was launched, in parts where memory was short."""

    parts: tuple[tuple[Rows, Pending], ...]
    exhausted: Rows
    """Sequences for which alone memory was not enough."""
    outcome: Outcome
    """What is known of the step before its results."""


class Engine:
    """Runs sequences to their end, a token each a step."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: StepRunner,
        eos_token_ids: Set[int],
        mailbox: Mailbox,
        overlap: bool,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`overlap`: results of a step are waited for only when the next one is launched."""
        self._scheduler = scheduler
        self._runner = runner
        self._mailbox = mailbox
        self._overlap = overlap
        self._clock = clock
        self._commit = Commit(scheduler, runner, eos_token_ids)
        self._sink: Sink | None = None
        self._decode_rows: tuple[tuple[Sequence, ...], Rows] = ((), rows_of(()))
        self._steps = 0
        self._committed_s = 0.0
        self._checked_s = float("-inf")
        self._batch_id = 0
        self._draining = False
        self._closing = False
        self._told: tuple[Capacity, int] | None = None

    def run_forever(self) -> None:
        """Turns while there is work and waits while there is none, until `Stop`."""
        in_flight = None
        while self.obey(wait=in_flight is None and not self._scheduler.has_work):
            in_flight = self.turn(in_flight)

    def turn(self, in_flight: Flight | None = None) -> Flight | None:
        """Launches a step and commits the one in flight; returns what is in flight then.

        With nothing to run it only reports what has changed.
        """
        launched = self._launch(self._scheduler.schedule())
        if in_flight is not None:
            self._land(in_flight)
        if self._overlap and launched is not None:
            return launched
        if launched is not None:
            self._land(launched)
        elif in_flight is None:
            self._tell(Report())
        return None

    def obey(self, *, wait: bool) -> bool:
        """Carries out the commands that have come; False after `Stop`."""
        commands = self._mailbox.take(wait=wait)
        for command in commands:
            self._obey(command)
        return not any(isinstance(command, Stop) for command in commands)

    def _obey(self, command: Command) -> None:
        match command:
            case Attach(sink, batching_mode):
                self._sink, self._batch_id, self._told = sink, 0, None
                self._draining = self._closing
                self._scheduler.batch_by(batching_mode)
            case Detach():
                self._forget(self._scheduler.cancel_all())
                self._sink = None
            case Start(batch_id, sequences, refused):
                self._batch_id = batch_id
                self._start(sequences, refused)
            case Cancel(sequence_ids):
                self._forget(self._scheduler.cancel(sequence_ids))
            case Drain(for_good):
                self._draining, self._closing = True, self._closing or for_good
            case Stop():
                pass

    def _start(self, sequences: tuple[Sequence, ...], refused: tuple[Failed, ...]) -> None:
        too_large = [s for s in sequences if not self._scheduler.can_ever_hold(s)]
        if refused or too_large:
            message = "the KV cache is smaller than this sequence"
            code = FailureCode.KV_EXHAUSTED
            failed = [Failed(s.sequence_id, code, message) for s in too_large]
            self._report(Report(failed=(*refused, *failed)))
        for sequence in sequences:
            if sequence not in too_large:
                self._scheduler.add(sequence)

    def _forget(self, cancelled: list[Sequence]) -> None:
        for sequence in cancelled:
            self._runner.end(sequence)

    def _launch(self, step: Step) -> Flight | None:
        if step.is_empty:
            return None
        began_s = self._clock()
        for sequence in step.started:
            sequence.first_step_s = sequence.first_step_s or began_s
            self._commit.start(sequence)
        self._runner.begin(step.started, step.cells)
        parts: list[tuple[Rows, Pending]] = []
        exhausted: list[Sequence] = []
        shortages = self._launch_parts(step, parts, exhausted)
        outcome = Outcome(
            began_s=began_s,
            prompt_tokens=sum(chunk.tokens for chunk in step.chunks),
            preempted=step.preempted,
            out_of_memory=shortages,
        )
        return Flight(tuple(parts), rows_of(tuple(exhausted)), outcome)

    def _launch_parts(
        self, step: Step, parts: list[tuple[Rows, Pending]], exhausted: list[Sequence]
    ) -> int:
        """Launches the step, in halves where memory is short; returns how often it was."""
        try:
            parts.append((self._rows(step), self._runner.launch(step)))
        except torch.OutOfMemoryError:
            pass
        else:
            return 0
        # Outside the except block, whose traceback would keep the tensors alive.
        sequences = [chunk.sequence for chunk in step.chunks] + [*step.decode]
        if len(sequences) == 1:
            exhausted += sequences
            return 1
        return 1 + sum(self._launch_parts(half, parts, exhausted) for half in _halves(step))

    def _rows(self, step: Step) -> Rows:
        if any(chunk.last for chunk in step.chunks):
            return rows_of(step.sampled)
        decode, rows = self._decode_rows
        if step.decode is not decode:
            rows = rows_of(step.decode)
            self._decode_rows = step.decode, rows
        return rows

    def _land(self, flight: Flight) -> None:
        """Commits a step and reports it."""
        results = [(rows, pending.wait()) for rows, pending in flight.parts]
        now_s = self._clock()
        self._steps += 1
        began_s = max(flight.outcome.began_s, self._committed_s)
        self._committed_s = now_s
        outcome = flight.outcome
        self._commit.exhausted(flight.exhausted, outcome)
        for rows, result in results:
            self._commit.results(rows, result, now_s, outcome)
        self._tell(outcome.report(self._steps, (now_s - began_s) * 1e3))

    def _tell(self, report: Report) -> None:
        capacity = self._scheduler.capacity()
        if self._draining:
            capacity = Capacity(0, 0, capacity.running_sequences)
        changed = (capacity, self._batch_id) != self._told
        idle = not self._scheduler.has_work
        drained = idle and self._draining
        self._told = capacity, self._batch_id
        if changed or drained or report.step:
            self._report(
                replace(
                    report,
                    capacity=capacity if changed else None,
                    batch_id=self._batch_id,
                    drained=drained,
                )
            )
        if idle:
            self._check()  # it takes its time; nobody waits for it but who comes next

    def _check(self) -> None:
        now_s = self._clock()
        thorough = now_s - self._checked_s > CHECK_INTERVAL_S
        if thorough:
            self._checked_s = now_s
        self._scheduler.check(thorough=thorough)

    def _report(self, report: Report) -> None:
        if self._sink is not None:
            self._sink(report)


def _halves(step: Step) -> tuple[Step, Step]:
    """The step in two parts of like size, each with its share of chunks and decode rows."""
    # An odd one goes to different sides, so that neither half is the whole.
    first, second = (len(step.chunks) + 1) // 2, len(step.decode) // 2
    return (
        Step(step.chunks[:first], step.decode[:second]),
        Step(step.chunks[first:], step.decode[second:]),
    )
