"""One run of the SSJF paper's experiment: the live scheduling core under the paper's rules.

Owns what the paper's simulator does around the queue: who idles, who is preempted, when
jobs join a batch and when their answers count. Order and batching are the core's, the
engine's clock is `virtual_engine`'s. With fair rules it is `simulator` again (tested).
Called by `as_published_run`.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import Policy
from gateway_svc.scheduling.quota import Limits
from ssjf_bench.as_published import (
    CONSTANT_TOKENS,
    FCFS,
    ORACLE,
    SSJF,
    TOKEN_S,
    Rules,
    Starvation,
)
from ssjf_bench.as_published_policy import SsjfUnlessStarving
from ssjf_bench.step_time import StepTime
from ssjf_bench.virtual_engine import VirtualEngine

STEP_TIME: Final = StepTime(base_ms=TOKEN_S * 1e3, per_sequence_ms=0.0)
ENGINE: Final = "simulated"
UNLIMITED: Final = sys.maxsize


@dataclass(frozen=True, slots=True)
class Burst:
    """The jobs of a run, in order of arrival; each field has one value a job."""

    arrivals_s: Sequence[float]
    """Seconds from 0, never falling."""
    output_tokens: Sequence[int]
    """Length of the answer, at least 1."""
    predicted_tokens: Sequence[float]
    """What the scheduler is told, positive."""


def ends_s(burst: Burst, order: str, batching: Batching, rules: Rules) -> NDArray[np.float64]:
    """When each answer comes, in seconds; nan for a job that is forgotten.

    `order` is FCFS, SSJF (by prediction) or ORACLE (by truth, or what is left of it).
    """
    run = _Run(burst, order, batching, rules)
    run.to_the_end()
    return np.array(run.ends_s)


class _Run:
    """One run. Jobs are named by their place in the burst."""

    def __init__(self, burst: Burst, order: str, batching: Batching, rules: Rules) -> None:
        self._burst, self._order, self._rules = burst, order, rules
        self._places, self._mode = batching.places, batching.mode
        self._joins = batching.mode is Mode.CONTINUOUS and not rules.joins_at_completions
        self._preempts = rules.ssjf_preempts and order != FCFS and self._mode is Mode.CONTINUOUS
        self._idles_s = rules.fcfs_idles_s if order == FCFS else 0.0
        self._forgets = rules.forgets_last_job and order != FCFS
        delay_s = rules.prediction_s if order == SSJF else 0.0
        self._queued_s = [time_s + delay_s for time_s in burst.arrivals_s]
        self._waits_since_s = list(self._queued_s)
        self._left = [tokens + CONSTANT_TOKENS for tokens in burst.output_tokens]
        self._longest = max(self._left)
        self._engine = VirtualEngine(STEP_TIME, self._places, UNLIMITED)
        self._core = SchedulingCore(
            self._policy(),
            Limits(max_queued=len(self._left), longest_answer_tokens=self._longest),
            batching,
        )
        self._core.join(ENGINE, Room(self._places, UNLIMITED))
        self._running: list[int] = []
        self._arrived = 0
        self._batch_id = 0
        self._began_s: float | None = None  # the run of steps that just ended
        self.ends_s = [math.nan] * len(self._left)

    def to_the_end(self) -> None:
        """Arrivals, then starts, then steps, until nothing is left."""
        jobs, ended = len(self._left), True
        while self._arrived < jobs or self._here:
            self._arrive()
            if not self._here:
                if self._forgets and self._arrived == jobs - 1:
                    return
                self._began_s = None
                self._engine.idle_until(self._queued_s[self._arrived])
                ended = True
                continue
            if ended and self._preempts:
                self._queue_anew()
            if ended:
                self._wait_for_company()
            self._start()
            ended = self._run()

    @property
    def _here(self) -> int:
        return self._core.waiting_count + len(self._running)

    def _arrive(self) -> None:
        now_s = self._engine.now_s
        while self._arrived < len(self._queued_s) and self._queued_s[self._arrived] <= now_s:
            if self._began_s is not None:
                # The paper counts the whole run of steps in which a job comes as waiting.
                self._waits_since_s[self._arrived] = self._began_s
            self._core.submit(self._job(self._arrived))
            self._arrived += 1

    def _job(self, number: int) -> Job:
        truth = self._order == ORACLE
        predicted = self._burst.predicted_tokens[number] + CONSTANT_TOKENS
        return Job(
            job_id=number,
            request_id=str(number),
            arrival_s=self._waits_since_s[number],
            prompt_tokens=1,
            max_tokens=self._longest,
            predicted_tokens=self._left[number] if truth else predicted,
        )

    def _wait_for_company(self) -> None:
        engine, queued_s = self._engine, self._queued_s
        if not self._idles_s:
            return
        until_s = engine.now_s + self._idles_s
        while self._here < self._places and self._next_s() <= until_s:
            engine.idle_until(queued_s[self._arrived])
            self._arrive()
        if self._here < self._places:
            engine.idle_until(until_s)

    def _start(self) -> None:
        engine = self._engine
        batch = self._core.next_batch(ENGINE, engine.now_s) if engine.places_free else None
        if batch is None:
            return
        self._batch_id = batch.batch_id
        for job in batch.jobs:
            self._running.append(job.job_id)
            engine.start(job.job_id, 0, self._left[job.job_id], 0)

    def _run(self) -> bool:
        """Steps until the next decision; whether jobs ended."""
        engine = self._engine
        self._began_s = engine.now_s
        ended = engine.run(self._next_s() if self._joins and engine.places_free else math.inf)
        self._end(ended)
        batch = list(ended)
        while self._mode is Mode.DYNAMIC and self._running:
            ended = engine.run(math.inf)
            self._end(ended)
            batch += ended
        if self._mode is Mode.DYNAMIC and self._rules.answers_at_batch_end:
            for number in batch:
                self.ends_s[number] = engine.now_s
        self._credit()
        return bool(batch)

    def _end(self, ended: list[int]) -> None:
        for number in ended:
            self.ends_s[number] = self._engine.now_s
            self._running.remove(number)
            self._engine.release(0)
            self._core.finished(number, self._left[number])

    def _queue_anew(self) -> None:
        """All that run wait again, behind what waits already where they tie."""
        left = self._engine.stop()
        for number in self._running:
            self._left[number] = left[number]
            self._core.cancel(number)
            self._core.submit(self._job(number))
            self._engine.release(0)
        self._running = []
        self._credit()

    def _credit(self) -> None:
        self._core.credit(ENGINE, Room(self._engine.places_free, UNLIMITED), self._batch_id)

    def _policy(self) -> Policy:
        if self._order == FCFS:
            return policy.create(FCFS)
        if self._rules.starvation is Starvation.NONE:
            return policy.create(SSJF)
        return SsjfUnlessStarving(self._service_s)

    def _service_s(self, entry: Entry) -> float:
        by_truth = self._rules.starvation is Starvation.TRUTH
        return TOKEN_S * (self._left[entry.job_id] if by_truth else entry.work)

    def _next_s(self) -> float:
        return self._queued_s[self._arrived] if self._arrived < len(self._queued_s) else math.inf
