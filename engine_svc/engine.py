"""The engine loop: schedule → run → commit.

One thread runs it and owns all tensors. It knows neither gRPC nor asyncio: commands
come out of a mailbox before each step, one report a step goes to the stream that is
attached.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Set
from typing import Protocol

import torch

from engine_svc import metrics
from engine_svc.detokenizer import Decode, Detokenizer
from engine_svc.mailbox import Mailbox
from engine_svc.messages import (
    Attach,
    Cancel,
    Command,
    Detach,
    Drain,
    Failed,
    Finished,
    NewToken,
    Report,
    Sink,
    Start,
    Stop,
)
from engine_svc.sampler import NUMERIC_FAULT, Sampled
from engine_svc.scheduler import Capacity, Scheduler, Step
from engine_svc.sequence import Ending, FailureCode, FinishReason, Sequence


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
        decode: Decode,
        eos_token_ids: Set[int],
        mailbox: Mailbox,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._scheduler = scheduler
        self._runner = runner
        self._decode = decode
        self._eos_token_ids = eos_token_ids
        self._mailbox = mailbox
        self._clock = clock
        self._sink: Sink | None = None
        self._detokenizers: dict[int, Detokenizer] = {}
        self._steps = 0
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
            case Attach(sink):
                self._sink, self._batch_id, self._told = sink, 0, None
                self._draining = self._closing
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
                self._detokenizers[sequence.sequence_id] = Detokenizer(
                    self._decode, sequence.params.stop
                )
                self._scheduler.add(sequence)

    def _forget(self, cancelled: list[Sequence]) -> None:
        for sequence in cancelled:
            del self._detokenizers[sequence.sequence_id]
            metrics.ENDED.labels("cancelled").inc()

    def _run(self, step: Step, began_s: float) -> list[tuple[Sequence, Sampled | None]]:
        """Each sequence of the step with its result; None where memory ran out for it alone."""
        for sequence in step.prefill:
            sequence.first_step_s = began_s
        if not step.sequences:
            return []
        try:
            return list(zip(step.sequences, self._runner.run(step), strict=True))
        except torch.OutOfMemoryError:
            metrics.OUT_OF_MEMORY.inc()
        # Outside the except block, whose traceback would keep the tensors alive.
        if len(step.sequences) == 1:
            return [(step.sequences[0], None)]
        return [pair for part in _halves(step) for pair in self._run(part, began_s)]

    def _commit(self, results: list[tuple[Sequence, Sampled | None]], began_s: float) -> None:
        now_s = self._clock()
        tokens: list[NewToken] = []
        finished: list[Finished] = []
        failed: list[Failed] = []
        for sequence, sampled in results:
            if sampled is None or sampled.token_id == NUMERIC_FAULT:
                failed.append(self._fail(sequence, sampled))
                continue
            token, ending = self._append(sequence, sampled, now_s)
            tokens.append(token)
            if ending is not None:
                finished.append(self._finish(sequence, ending, now_s))
        if results:
            self._count(results, tokens, now_s - began_s)
        self._tell(tuple(tokens), tuple(finished), tuple(failed), (now_s - began_s) * 1e3)

    def _append(
        self, sequence: Sequence, sampled: Sampled, now_s: float
    ) -> tuple[NewToken, Ending | None]:
        if not sequence.output:
            sequence.first_token_s = now_s
        sequence.output.append(sampled.token_id)
        ending = sequence.ending(self._eos_token_ids)
        text, stop = self._text(sequence, ending)
        if stop is not None:
            ending = Ending(FinishReason.STOP, stop_string=stop)
        index = len(sequence.output) - 1
        token = NewToken(sequence.sequence_id, index, sampled.token_id, text, sampled.logprobs)
        return token, ending

    def _text(self, sequence: Sequence, ending: Ending | None) -> tuple[str, str | None]:
        detokenizer = self._detokenizers[sequence.sequence_id]
        if ending is not None and ending.stop_token_id is not None:
            # The token that ends the answer is counted and sent; it is no text.
            return detokenizer.flush(), None
        text, stop = detokenizer.feed(sequence.output[-1], may_stop=sequence.may_stop)
        if ending is not None and stop is None:
            text += detokenizer.flush()
        return text, stop

    def _finish(self, sequence: Sequence, ending: Ending, now_s: float) -> Finished:
        self._end(sequence, ending.reason.name.lower())
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
        self._end(sequence, code.name.lower())
        return Failed(sequence.sequence_id, code, message, len(sequence.output))

    def _end(self, sequence: Sequence, outcome: str) -> None:
        self._scheduler.end(sequence)
        del self._detokenizers[sequence.sequence_id]
        metrics.ENDED.labels(outcome).inc()

    def _count(
        self,
        results: list[tuple[Sequence, Sampled | None]],
        tokens: list[NewToken],
        step_s: float,
    ) -> None:
        self._steps += 1
        metrics.STEPS.inc()
        metrics.STEP_SECONDS.observe(step_s)
        metrics.OUTPUT_TOKENS.inc(len(tokens))
        started = [sequence for sequence, _ in results if len(sequence.output) <= 1]
        metrics.PROMPT_TOKENS.inc(sum(len(sequence.prompt) for sequence in started))

    def _tell(
        self,
        tokens: tuple[NewToken, ...],
        finished: tuple[Finished, ...],
        failed: tuple[Failed, ...],
        step_ms: float,
    ) -> None:
        capacity = self._scheduler.capacity()
        metrics.RUNNING.set(capacity.running_sequences)
        metrics.FREE_KV_TOKENS.set(capacity.free_kv_tokens)
        if self._draining:
            capacity = Capacity(0, 0, capacity.running_sequences)
        changed = (capacity, self._batch_id) != self._told
        idle = not self._scheduler.has_work
        if idle:
            self._scheduler.check()
        report = Report(
            step=self._steps,
            step_ms=step_ms,
            tokens=tokens,
            finished=finished,
            failed=failed,
            capacity=capacity if changed else None,
            batch_id=self._batch_id,
            drained=idle and self._draining,
        )
        self._told = capacity, self._batch_id
        if changed or tokens or finished or failed or report.drained:
            self._report(report)

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
