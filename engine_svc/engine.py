"""The engine loop: schedule → run → commit.

One thread runs it and owns all tensors. It knows neither gRPC nor asyncio: commands
come out of a mailbox before each step, one report a step goes to the stream that is
attached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from dataclasses import replace
from typing import Protocol

import torch

from engine_svc.mailbox import Mailbox
from engine_svc.messages import (
    Attach,
    Cancel,
    Command,
    Detach,
    Drain,
    Failed,
    Finished,
    FirstToken,
    Report,
    Sink,
    Start,
    Stop,
)
from engine_svc.sampler import NUMERIC_FAULT, Sampled
from engine_svc.scheduler import Capacity, Scheduler, Step
from engine_svc.sequence import Ending, FailureCode, Sequence


class StepRunner(Protocol):
    """What the loop needs of `runner.Runner`."""

    def run(self, step: Step) -> list[Sampled]:
        """One result for each of `step.sequences`; torch.OutOfMemoryError changes nothing."""

    def clear(self, sequence: Sequence) -> None:
        """Wipes what a failed sequence left in the cache."""


class Engine:
    """Runs sequences to their end, a token each a step."""

    def __init__(
        self,
        *,
        scheduler: Scheduler,
        runner: StepRunner,
        eos_token_ids: Set[int],
        mailbox: Mailbox,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._eos_token_ids = eos_token_ids
        self._mailbox = mailbox
        self._clock = clock
        self._sink: Sink | None = None
        self._steps = 0
        self._out_of_memory = 0
        self._batch_id = 0
        self._draining = False
        self._closing = False
        self._told: tuple[Capacity, int] | None = None

    def run_forever(self) -> None:
        """Steps while there is work and waits while there is none, until `Stop`."""
        while self.obey(wait=not self._scheduler.has_work):
            self.step()

    def step(self) -> None:
        """One turn of the loop; with nothing to run it only reports what has changed."""
        began_s = self._clock()
        step = self._scheduler.schedule()
        results = self._run(step, began_s)
        self._commit(results, began_s)

    def obey(self, *, wait: bool) -> bool:
        """Carries out the commands that have come; False after `Stop`."""
        commands = self._mailbox.take(wait=wait)
        for command in commands:
            self._obey(command)
        return not any(isinstance(command, Stop) for command in commands)

    def _obey(self, command: Command) -> None:
        match command:
            case Attach(sink=sink):
                self._sink, self._batch_id, self._told = sink, 0, None
                self._draining = self._closing
            case Detach():
                self._scheduler.cancel_all()
                self._sink = None
            case Start(batch_id, sequences, refused):
                self._batch_id = batch_id
                self._start(sequences, refused)
            case Cancel(sequence_ids):
                self._scheduler.cancel(sequence_ids)
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

    def _run(self, step: Step, began_s: float) -> list[tuple[Sequence, Sampled | None]]:
        """Each sequence of the step with its result; None where memory ran out for it alone."""
        for sequence in step.prefill:
            sequence.first_step_s = began_s
        if not step.sequences:
            return []
        try:
            return list(zip(step.sequences, self._runner.run(step), strict=True))
        except torch.OutOfMemoryError:
            self._out_of_memory += 1
        # Outside the except block, whose traceback would keep the tensors alive.
        if len(step.sequences) == 1:
            return [(step.sequences[0], None)]
        return [pair for part in _halves(step) for pair in self._run(part, began_s)]

    def _commit(self, results: list[tuple[Sequence, Sampled | None]], began_s: float) -> None:
        now_s = self._clock()
        good: list[tuple[Sequence, Sampled]] = []
        failed: list[Failed] = []
        for sequence, sampled in results:
            if sampled is None or sampled.token_id == NUMERIC_FAULT:
                failed.append(self._fail(sequence, sampled))
            else:
                good.append((sequence, sampled))
        prompts = [sequence for sequence, _ in results if not sequence.output]
        for sequence, sampled in good:
            sequence.output.append(sampled.token_id)
        first = tuple(self._first(sequence, now_s) for sequence, _ in good if sequence in prompts)
        finished: list[Finished] = []
        for sequence, _ in good:
            if ending := sequence.ending(self._eos_token_ids):
                finished.append(self._finish(sequence, ending, now_s))
        self._steps += bool(results)
        logprobs = {s.sequence_id: d.logprobs for s, d in good if d.logprobs is not None}
        self._tell(
            Report(
                step=self._steps,
                step_ms=(now_s - began_s) * 1e3,
                sequence_ids=tuple(sequence.sequence_id for sequence, _ in good),
                token_ids=tuple(sampled.token_id for _, sampled in good),
                indices=tuple(len(sequence.output) - 1 for sequence, _ in good),
                logprobs=logprobs or None,
                first=first,
                finished=tuple(finished),
                failed=tuple(failed),
                prompt_tokens=sum(len(sequence.prompt) for sequence in prompts),
                out_of_memory=self._out_of_memory,
            )
        )

    def _first(self, sequence: Sequence, now_s: float) -> FirstToken:
        sequence.first_token_s = now_s
        prefill_ms = (now_s - sequence.first_step_s) * 1e3
        return FirstToken(sequence.sequence_id, prefill_ms=prefill_ms)

    def _finish(self, sequence: Sequence, ending: Ending, now_s: float) -> Finished:
        self._scheduler.end(sequence)
        return Finished(
            sequence_id=sequence.sequence_id,
            ending=ending,
            prompt_tokens=len(sequence.prompt),
            output_tokens=len(sequence.output),
            prefill_ms=(sequence.first_token_s - sequence.first_step_s) * 1e3,
            decode_ms=(now_s - sequence.first_token_s) * 1e3,
        )

    def _fail(self, sequence: Sequence, sampled: Sampled | None) -> Failed:
        if sampled is None:
            code, message = FailureCode.KV_EXHAUSTED, "out of memory with this sequence alone"
        else:
            code, message = FailureCode.NUMERIC, "NaN or infinity in the logits"
            self._runner.clear(sequence)
        self._scheduler.end(sequence)
        return Failed(sequence.sequence_id, code, message, len(sequence.output))

    def _tell(self, report: Report) -> None:
        capacity = self._scheduler.capacity()
        if self._draining:
            capacity = Capacity(0, 0, capacity.running_sequences)
        changed = (capacity, self._batch_id) != self._told
        idle = not self._scheduler.has_work
        if idle:
            self._scheduler.check()
        drained = idle and self._draining
        self._told = capacity, self._batch_id
        if changed or report.sequence_ids or report.failed or drained:
            self._out_of_memory = 0
            self._report(
                replace(
                    report,
                    capacity=capacity if changed else None,
                    batch_id=self._batch_id,
                    drained=drained,
                )
            )

    def _report(self, report: Report) -> None:
        if self._sink is not None:
            self._sink(report)


def _halves(step: Step) -> tuple[Step, Step]:
    """The step in two parts of like size, each with its share of prefill and decode."""
    prefill, decode = len(step.prefill), len(step.decode)
    # An odd one goes to different sides, so that neither half is the whole.
    first, second = (prefill + 1) // 2, decode // 2
    return (
        Step(step.prefill[:first], step.decode[:second]),
        Step(step.prefill[first:], step.decode[second:]),
    )
