"""Owns the scheduling core and the live requests; the only caller of the core.

Handlers put requests in and are told of everything through their `LiveRequest`;
engine links report what engines say and are given batches. Runs on the event loop
only, so nothing here needs a lock. Every accepted request ends in the ledger once.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from gateway_svc import metrics
from gateway_svc.ledger import Ledger, Outcome
from gateway_svc.live import GappedOutput, LiveRequest
from gateway_svc.prior import PromptLengthPrior
from gateway_svc.scheduling.core import BrokenInvariant, Expiry, SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.quota import CoreFull
from ssjf.engine.v1 import engine_pb2
from ssjf.wire import errors


class Engine(Protocol):
    """What the dispatcher needs of an engine link."""

    key: str
    name: str

    def send_batch(self, batch: engine_pb2.ScheduledBatch) -> None:
        """Starts sequences."""

    def send_cancel(self, job_id: int) -> None:
        """Stops a sequence."""


class Dispatcher:
    """The queue with its live requests and engines."""

    def __init__(
        self,
        core: SchedulingCore,
        prior: PromptLengthPrior,
        clock: Callable[[], float],
        engines_changed: Callable[[], None] = lambda: None,
    ) -> None:
        self.core = core
        self.prior = prior
        self.ledger = Ledger()
        self.engines: dict[str, Engine] = {}
        self.draining = False
        self._clock = clock
        self._engines_changed = engines_changed
        self._live: dict[int, LiveRequest] = {}
        self._ids: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._timer: asyncio.TimerHandle | None = None
        self._finish_interval_s = 1.0
        self._last_finish_s = clock()

    # Requests ---------------------------------------------------------------

    @contextmanager
    def reserve(self, request_id: str, max_queued: int) -> Iterator[None]:
        """Holds the id while its request is here. Raises DuplicateRequest, QueueFull, Draining."""
        if self.draining:
            raise errors.Draining("the gateway is shutting down", retry_after_s=1.0)
        if request_id in self._ids:
            raise errors.DuplicateRequest(f"request_id {request_id} is in the gateway already")
        preparing = len(self._ids) - len(self._live)
        if preparing + self.core.waiting_count >= max_queued:
            raise self._queue_full(max_queued)
        self._ids.add(request_id)
        self._idle.clear()
        try:
            yield
        finally:
            self._ids.discard(request_id)
            if not self._ids:
                self._idle.set()

    @contextmanager
    def place(self, live: LiveRequest) -> Iterator[int]:
        """Queues the request and frees whatever it holds on the way out, whatever happened.

        Yields the number of requests waiting, this one included, as it was queued.
        """
        now_s = self._clock()
        live.moments.queued_s = now_s
        try:
            self.core.submit(live.job)
        except CoreFull as full:
            raise self._queue_full(self.core.waiting_count) from full
        self.ledger.accepted += 1
        self._live[live.job.job_id] = live
        queue_length = self.core.waiting_count
        outcome = Outcome.FAILED
        try:
            self.pump()
            yield queue_length
            outcome = Outcome.FINISHED
        except asyncio.CancelledError:
            at_deadline = _at_deadline(live.job, self._clock())
            outcome = Outcome.FAILED if at_deadline else Outcome.CANCELLED
            raise
        finally:
            self._release(live, outcome)

    def reprice(self, job_id: int, predicted_tokens: float) -> None:
        """Takes a late prediction into account, if the job still waits."""
        live = self._live.get(job_id)
        if live is not None and self.core.reprice(job_id, predicted_tokens):
            live.job = replace(live.job, predicted_tokens=predicted_tokens)
            live.from_model = True
            self.ledger.repriced += 1
            metrics.PREDICTIONS.labels("repriced").inc()

    def refused(self, reason: str) -> None:
        """Counts a request that was refused before the queue."""
        self.ledger.refused += 1
        metrics.REFUSED.labels(reason).inc()

    def prediction_late(self) -> None:
        """Counts a request queued under the prior because its prediction was late."""
        self.ledger.predictions_late += 1
        metrics.PREDICTIONS.labels("late").inc()

    def prediction_failed(self) -> None:
        """Counts a request that keeps the prior because its prediction failed."""
        self.ledger.predictions_failed += 1
        metrics.PREDICTIONS.labels("failed").inc()

    def observe_finished(self, live: LiveRequest, now_s: float) -> None:
        """Feeds a finished request's figures to the metrics."""
        moments = live.moments
        metrics.JCT.observe(now_s - moments.received_s)
        metrics.OUTPUT_TOKENS.inc(live.output_tokens)
        if live.output_tokens:
            metrics.TTFT.observe(moments.first_token_s - moments.received_s)
            ratio = live.job.expected_output_tokens / live.output_tokens
            metrics.PREDICTION_RATIO.observe(ratio)

    def live(self, job_id: int) -> LiveRequest:
        """The live request of that number. Raises KeyError where there is none."""
        return self._live[job_id]

    # Engines ----------------------------------------------------------------

    def engine_joined(self, engine: Engine, max_job_tokens: int) -> None:
        """An engine is there; it gets work once it has said what it has free."""
        self.engines[engine.key] = engine
        self.core.join(engine.key, Room(0, 0), max_job_tokens)
        metrics.ENGINES.set(len(self.engines))
        self._engines_changed()

    def engine_left(self, engine: Engine) -> None:
        """An engine is gone: what had sent nothing waits again, the rest fails."""
        if self.engines.pop(engine.key, None) is None:
            return
        departure = self.core.leave(engine.key)
        for job in departure.requeued:
            self._live[job.job_id].requeue(self._clock())
        for job in departure.lost:
            live = self._live[job.job_id]
            live.fail(errors.EngineLost(live.output_tokens))
        metrics.ENGINES.set(len(self.engines))
        self._engines_changed()
        self.pump()

    def capacity(self, engine: Engine, capacity: engine_pb2.Capacity) -> None:
        """An engine says what it has free."""
        room = Room(capacity.free_sequences, capacity.free_kv_tokens)
        self.core.credit(engine.key, room, capacity.batch_id)
        self.pump()

    def step(self, engine: Engine, output: engine_pb2.StepOutput) -> None:
        """Fans one step's tokens out to their requests."""
        now_s = self._clock()
        logprobs = dict(zip(output.logprob_rows, output.logprobs, strict=True))
        columns = output.sequence_ids, output.indices, output.token_ids, output.texts
        for row, (job_id, index, token_id, text) in enumerate(zip(*columns, strict=True)):
            live = self._owned(engine, job_id)
            if live is None:
                continue
            try:
                fresh = live.push(index, token_id, text, now_s, logprobs.get(row))
            except GappedOutput:
                live.fail(errors.EngineLost(live.output_tokens))
                continue
            if not fresh:
                metrics.DROPPED_MESSAGES.inc()
            self.core.has_output(job_id)

    def sequence_finished(self, engine: Engine, finished: engine_pb2.SequenceFinished) -> None:
        """A sequence has ended well."""
        live = self._owned(engine, finished.sequence_id)
        if live is None:
            return
        self.core.finished(finished.sequence_id, finished.output_tokens)
        if finished.output_tokens != live.output_tokens:  # its last tokens never came
            live.fail(errors.EngineLost(live.output_tokens))
            return
        self.prior.learn(finished.prompt_tokens, finished.output_tokens)
        now_s = self._clock()
        self._finish_interval_s += 0.1 * (now_s - self._last_finish_s - self._finish_interval_s)
        self._last_finish_s = now_s
        live.finish(finished)

    def sequence_failed(self, engine: Engine, failure: engine_pb2.SequenceError) -> None:
        """A sequence has failed at its engine."""
        live = self._owned(engine, failure.sequence_id)
        if live is None:
            return
        self.core.finished(failure.sequence_id, live.output_tokens)
        live.fail(_failure(failure))

    def pump(self) -> None:
        """Gives every engine what fits now."""
        self._expire()
        if self.core.waiting_count:
            for engine in self.engines.values():
                self._feed(engine)
        self._observe_levels()

    # Shutdown ---------------------------------------------------------------

    async def drain(self) -> None:
        """Refuses new requests and returns when none is left; cancelled, it fails the rest."""
        self.draining = True
        try:
            await self._idle.wait()
        finally:
            for live in self._live.values():
                live.fail(errors.Interrupted("the gateway stopped", retry_after_s=1.0))

    def check(self) -> None:
        """Raises BrokenInvariant where core, live requests and ledger disagree."""
        self.core.check()
        if self.ledger.open != len(self._live):
            raise BrokenInvariant(f"{self.ledger.open} open in the ledger, {len(self._live)} live")
        if self.core.waiting_count + self.core.running_count > len(self._live):
            raise BrokenInvariant("the core has jobs that are not live")

    # Inside -----------------------------------------------------------------

    def _feed(self, engine: Engine) -> None:
        now_s = self._clock()
        batch = self.core.next_batch(engine.key, now_s)
        if batch is None:
            return
        sequences = []
        for job in batch.jobs:
            live = self._live[job.job_id]
            live.start(engine.name, now_s)
            metrics.QUEUE_WAIT.observe(now_s - live.moments.queued_s)
            sequences.append(live.sequence)
        engine.send_batch(engine_pb2.ScheduledBatch(batch_id=batch.batch_id, sequences=sequences))

    def _owned(self, engine: Engine, job_id: int) -> LiveRequest | None:
        """The live request that this engine runs; what it says of others is dropped."""
        if self.core.engine_of(job_id) == engine.key:
            return self._live.get(job_id)
        metrics.DROPPED_MESSAGES.inc()
        return None

    def _release(self, live: LiveRequest, outcome: Outcome) -> None:
        del self._live[live.job.job_id]
        engine_key = self.core.cancel(live.job.job_id)
        if engine_key in self.engines:
            self.engines[engine_key].send_cancel(live.job.job_id)
        self.ledger.end(outcome)
        metrics.REQUESTS.labels(outcome.value).inc()
        self.pump()  # what it held up may start

    def _expire(self) -> None:
        for job, expiry in self.core.expire(self._clock()):
            self._live[job.job_id].fail(_expired(job, expiry))
        self._arm_timer()

    def _arm_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        wait_s = self.core.next_expiry_s() - self._clock()
        # A day at most: the loop cannot wait for ever, and re-arming is cheap.
        delay_s = min(max(wait_s, 0.0), 86_400.0)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self.pump)

    def _observe_levels(self) -> None:
        metrics.WAITING.set(self.core.waiting_count)
        metrics.RUNNING.set(self.core.running_count)

    def _queue_full(self, waiting: int) -> errors.QueueFull:
        retry_s = min(max(self._finish_interval_s, 0.1), 60.0)
        return errors.QueueFull("queue", f"{waiting} requests are waiting", retry_s)


def _at_deadline(job: Job, now_s: float) -> bool:
    """Whether a cancellation at `now_s` is the deadline's.

    At the deadline the client's own timer cancels the call, mostly before ours fires: grpc
    rounds what is left up, by 1 % at most, and the request was on its way for a while.
    """
    early_s = 0.05 + 0.01 * (job.deadline_s - job.arrival_s)
    return math.isfinite(job.deadline_s) and now_s >= job.deadline_s - early_s


def _expired(job: Job, expiry: Expiry) -> errors.SsjfError:
    if expiry is Expiry.DEADLINE:
        return errors.DeadlinePassed(f"the deadline of {job.request_id} passed in the queue")
    return errors.QueueTimeout("the request waited too long in the queue", retry_after_s=1.0)


def _failure(failure: engine_pb2.SequenceError) -> errors.SsjfError:
    match failure.code:
        case engine_pb2.SEQUENCE_ERROR_CODE_KV_EXHAUSTED:
            return errors.KvExhausted("the engine ran out of KV cache", retry_after_s=1.0)
        case engine_pb2.SEQUENCE_ERROR_CODE_NUMERIC:
            return errors.NumericFault("the model produced no finite probabilities")
        case _:
            return errors.Internal("the engine failed on this request")
