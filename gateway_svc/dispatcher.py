"""Owns the scheduling core and the live requests; the only caller of the core.

Handlers put requests in and are told of everything through their `LiveRequest`;
engine links report what engines say and are given batches. Runs on the event loop
only, so nothing here needs a lock. Every accepted request ends in the ledger once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Protocol

from gateway_svc import endings, metrics
from gateway_svc.ledger import Ledger, Outcome
from gateway_svc.live import GappedOutput, LiveRequest, Where
from gateway_svc.predictor_client import Forecast
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.invariants import BrokenInvariant
from gateway_svc.scheduling.quota import Tenant
from gateway_svc.tally import Tally
from gateway_svc.throughput import TokenRate
from ssjf.engine.v1 import engine_pb2
from ssjf.wire import errors

PROGRESS_TOKENS = 32
"""The core hears of a running answer once in so many of its tokens."""


class Engine(Protocol):
    """What the dispatcher needs of an engine link."""

    key: str
    name: str
    rate: TokenRate
    places: int
    """Sequences that it may run at once."""

    @property
    def may_start(self) -> bool:
        """Whether, by its own last word, it can be given sequences in this batching mode."""

    def send_batch(self, batch: engine_pb2.ScheduledBatch) -> None:
        """Starts sequences."""

    def send_cancel(self, job_id: int) -> None:
        """Stops a sequence."""


class Dispatcher:
    """The queue with its live requests and engines.

    `ended` is told of every request that its engine has finished.
    """

    def __init__(
        self,
        core: SchedulingCore,
        clock: Callable[[], float],
        engines_changed: Callable[[], None] = lambda: None,
        ended: Callable[[LiveRequest, float], None] = lambda _live, _now_s: None,
    ) -> None:
        self.core = core
        self.ledger = Ledger()
        self.tally = Tally()
        self.rate = TokenRate()
        self.engines: dict[str, Engine] = {}
        self._clock = clock
        self._engines_changed = engines_changed
        self._ended = ended
        self._live: dict[int, LiveRequest] = {}
        self._timer: asyncio.TimerHandle | None = None

    # Requests ---------------------------------------------------------------

    @contextmanager
    def place(self, live: LiveRequest) -> Iterator[int]:
        """Queues the request and frees whatever it holds on the way out, whatever happened.

        Yields the number of requests waiting, this one included, as it was queued. Raises
        CoreFull at a limit.
        """
        live.moments.queued_s = self._clock()
        self.core.submit(live.job)
        self.ledger.accepted += 1
        self._live[live.job.job_id] = live
        self._move(live, Where.QUEUE)
        queue_length = self.core.waiting_count
        outcome = Outcome.FAILED
        try:
            self.pump()
            yield queue_length
            outcome = Outcome.FINISHED
        except asyncio.CancelledError:
            at_deadline = endings.at_deadline(live.job, self._clock())
            outcome = Outcome.FAILED if at_deadline else Outcome.CANCELLED
            raise
        finally:
            self._release(live, outcome)

    def foretold(self, job_id: int, forecast: Forecast) -> None:
        """Takes a late prediction into account: a job that waits moves, another is told."""
        live = self._live.get(job_id)
        if live is None:
            return
        job = replace(
            live.job, predicted_tokens=forecast.tokens, predicted_p90_tokens=forecast.p90_tokens
        )
        if self.core.reprice(job_id, forecast.tokens, forecast.p90_tokens):
            self.ledger.repriced += 1
            metrics.PREDICTIONS.labels("repriced").inc()
        where = live.where
        self._move(live, Where.GONE)  # the tally counts predicted tokens
        live.job, live.from_model = job, True
        self._move(live, where)

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

    def prediction_skipped(self) -> None:
        """Counts a request that needed no prediction: a place was free."""
        self.ledger.predictions_skipped += 1
        metrics.PREDICTIONS.labels("skipped").inc()

    @property
    def live_count(self) -> int:
        """Requests accepted and not ended."""
        return len(self._live)

    @property
    def free_places(self) -> int:
        """Requests that could start now, by what engines can run and do run."""
        places = sum(engine.places for engine in self.engines.values())
        return places - self.core.running_count

    def live(self, job_id: int) -> LiveRequest:
        """The live request of that number. Raises KeyError where there is none."""
        return self._live[job_id]

    def set_tenants(self, tenants: Sequence[Tenant]) -> None:
        """Takes other weights and limits; what is accepted stays accepted."""
        self.core.set_tenants(tenants)
        self.pump()

    def fail_all(self, make: Callable[[], errors.SsjfError]) -> None:
        """Ends every live request with an error of its own."""
        for live in self._live.values():
            live.fail(make())

    # Engines ----------------------------------------------------------------

    def engine_joined(self, engine: Engine, max_job_tokens: int) -> None:
        """An engine is there; it gets work once it has said what it has free."""
        self.engines[engine.key] = engine
        self.core.join(engine.key, Room(0, 0), max_job_tokens, engine.places)
        metrics.ENGINES.set(len(self.engines))
        self._engines_changed()

    def engine_left(self, engine: Engine) -> None:
        """An engine is gone: what had sent nothing waits again, the rest fails."""
        if self.engines.pop(engine.key, None) is None:
            return
        departure = self.core.leave(engine.key)
        for job in departure.requeued:
            live = self._live[job.job_id]
            live.requeue(self._clock())
            self._move(live, Where.QUEUE)
        for job in departure.lost:
            live = self._live[job.job_id]
            self._move(live, Where.GONE)
            live.stop()
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
        """Fans one step's tokens out to their requests, then takes its ends.

        Raises ValueError where the columns are not of one length.
        """
        now_s = self._clock()
        key, all_live = engine.key, self._live
        logprobs = dict(zip(output.logprob_rows, output.logprobs, strict=True))
        columns = output.sequence_ids, output.indices, output.token_ids, output.texts
        taken = dropped = 0
        for row, (job_id, index, token_id, text) in enumerate(zip(*columns, strict=True)):
            live = all_live.get(job_id)
            if live is None or live.engine_key != key:
                dropped += 1
                continue
            try:
                fresh = live.push(index, token_id, text, now_s, logprobs.get(row))
            except GappedOutput:
                live.fail(errors.EngineLost(live.output_tokens))
                continue
            taken += fresh
            dropped += not fresh
            if not index % PROGRESS_TOKENS:
                self.core.progress(job_id, live.output_tokens)
        if taken:
            self.rate.add(taken, now_s)
            engine.rate.add(taken, now_s)
        if dropped:
            metrics.DROPPED_MESSAGES.inc(dropped)
        for finished in output.finished:
            self._sequence_finished(engine, finished, now_s)
        for failure in output.errors:
            self._sequence_failed(engine, failure)

    def _sequence_finished(
        self, engine: Engine, finished: engine_pb2.SequenceFinished, now_s: float
    ) -> None:
        live = self._owned(engine, finished.sequence_id)
        if live is None:
            return
        self._stopped(live)
        if finished.output_tokens != live.output_tokens:  # its last tokens never came
            live.fail(errors.EngineLost(live.output_tokens))
            return
        live.finish(finished)
        self._ended(live, now_s)

    def _sequence_failed(self, engine: Engine, failure: engine_pb2.SequenceError) -> None:
        live = self._owned(engine, failure.sequence_id)
        if live is not None:
            self._stopped(live)
            live.fail(endings.failed(failure))

    def pump(self) -> None:
        """Gives every engine what fits now."""
        now_s = self._clock()  # one time for all: what is not due yet sets the timer below
        self._expire(now_s)
        if self.core.waiting_count:
            for engine in self.engines.values():
                if engine.may_start:
                    self._feed(engine, now_s)
        self._arm_timer(now_s)
        metrics.WAITING.set(self.core.waiting_count)
        metrics.RUNNING.set(self.core.running_count)

    def check(self) -> None:
        """Raises BrokenInvariant where core, live requests, tally and ledger disagree."""
        self.core.check()
        if self.ledger.open != len(self._live):
            raise BrokenInvariant(f"{self.ledger.open} open in the ledger, {len(self._live)} live")
        if self.core.waiting_count + self.core.running_count > len(self._live):
            raise BrokenInvariant("the core has jobs that are not live")
        groups = self.tally.groups.values()
        counted = sum(each.waiting for each in groups), sum(each.running for each in groups)
        if counted != (self.core.waiting_count, self.core.running_count):
            raise BrokenInvariant(f"the tally counts {counted}, the core otherwise")

    # Inside -----------------------------------------------------------------

    def _feed(self, engine: Engine, now_s: float) -> None:
        batch = self.core.next_batch(engine.key, now_s)
        if batch is None:
            return
        sequences = []
        for job in batch.jobs:
            live = self._live[job.job_id]
            live.start(engine.key, engine.name, now_s)
            self._move(live, Where.ENGINE)
            waited_s = now_s - live.moments.queued_s
            metrics.QUEUE_WAIT.labels(job.priority.name.lower()).observe(waited_s)
            sequences.append(live.sequence)
        engine.send_batch(engine_pb2.ScheduledBatch(batch_id=batch.batch_id, sequences=sequences))

    def _owned(self, engine: Engine, job_id: int) -> LiveRequest | None:
        """The live request that this engine runs; what it says of others is dropped."""
        live = self._live.get(job_id)
        if live is not None and live.engine_key == engine.key:
            return live
        metrics.DROPPED_MESSAGES.inc()
        return None

    def _stopped(self, live: LiveRequest) -> None:
        """Its engine is done with it."""
        self.core.finished(live.job.job_id, live.output_tokens)
        self._move(live, Where.GONE)
        live.stop()
        self._pause_if_idle()

    def _release(self, live: LiveRequest, outcome: Outcome) -> None:
        del self._live[live.job.job_id]
        engine_key = self.core.cancel(live.job.job_id)
        self._move(live, Where.GONE)
        self._pause_if_idle()
        if engine_key in self.engines:
            self.engines[engine_key].send_cancel(live.job.job_id)
        self.ledger.end(outcome)
        metrics.REQUESTS.labels(outcome.value).inc()
        self.pump()  # what it held up may start

    def _move(self, live: LiveRequest, where: Where) -> None:
        """Keeps the tally in step with where a request is."""
        if live.where is Where.QUEUE:
            self.tally.waits_no_more(live.job)
        elif live.where is Where.ENGINE:
            self.tally.runs_no_more(live.job)
        live.where = where
        if where is Where.QUEUE:
            self.tally.waits(live.job)
        elif where is Where.ENGINE:
            self.tally.runs(live.job)

    def _pause_if_idle(self) -> None:
        if not self.core.running_count:
            self.rate.pause()

    def _expire(self, now_s: float) -> None:
        for job, expiry in self.core.expire(now_s):
            live = self._live[job.job_id]
            self._move(live, Where.GONE)
            live.fail(endings.expired(job, expiry))

    def _arm_timer(self, now_s: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        # A day at most: the loop cannot wait for ever, and re-arming is cheap.
        delay_s = min(max(self.core.next_wake_s(now_s) - now_s, 0.0), 86_400.0)
        self._timer = asyncio.get_running_loop().call_later(delay_s, self.pump)
