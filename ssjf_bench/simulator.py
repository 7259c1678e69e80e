"""The live gateway's scheduling core in virtual time, with an engine made of a step time.

Owns the loop that hands arrivals and free places to the core and writes down what became
of each job. No policy is here: order, batching, the bound and its count are the core's.
Predictions are all that the core learns of a length before the job ends. Called by
`sim_run`.
"""

from __future__ import annotations

import gc
import math
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Final

import numpy as np
from numpy.typing import NDArray

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import PolicyOptions
from gateway_svc.scheduling.quota import Limits
from ssjf_bench.sim_predictions import Predictions
from ssjf_bench.step_time import StepTime
from ssjf_bench.virtual_engine import Handover, VirtualEngine
from ssjf_bench.workload import Workload

ENGINE: Final = "simulated"
UNLIMITED: Final = sys.maxsize
Seconds = NDArray[np.float64]


class Stuck(Exception):
    """Jobs wait that the core will never start: none fits the simulated engine."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What runs the workload."""

    policy: str = "default"
    """Its name in the registry."""
    options: PolicyOptions = field(default_factory=PolicyOptions)
    """Its settings; true lengths are added for the oracle alone."""
    batching: Batching = field(default_factory=lambda: Batching(max_batch=16))
    """Mode, places, and how long a dynamic batch waits."""
    step_time: StepTime = field(default_factory=StepTime)
    """The engine."""
    kv_tokens: int = UNLIMITED
    """KV tokens that the engine holds; each job reserves prompt + max_tokens."""
    handover: Handover = field(default_factory=Handover)
    """What it costs to give the engine a job."""
    step_model: StepModel | None = None
    """What the core takes a job's work to be; None: what the engine's step time says."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of each job; arrays of shape (jobs,) in the workload's order, seconds."""

    arrival_s: Seconds
    """When it came."""
    start_s: Seconds
    """When it left the queue."""
    first_token_s: Seconds
    """When it had its first token."""
    end_s: Seconds
    """When it had its last."""
    output_tokens: NDArray[np.int64]
    """Tokens of its answer."""
    bound_violations: int
    """As the core counts them."""
    wall_s: float
    """What the simulation itself took."""
    cpu_s: float
    """Processor time of it, which other programs do not change."""


def simulate(workload: Workload, predictions: Predictions, setup: Setup) -> Outcome:
    """Runs the workload to its end.

    Raises ValueError where an answer's length is not fixed, an unknown policy is asked for
    or predictions are missing; Stuck where a job never fits.
    """
    if len(predictions.tokens) != len(workload.requests):
        raise ValueError("predictions and requests differ in number")
    begin_s, begin_cpu_s = time.perf_counter(), time.process_time()
    run = _Run(workload, predictions, setup)
    with _no_garbage_collection():
        run.to_the_end()
    wall_s, cpu_s = time.perf_counter() - begin_s, time.process_time() - begin_cpu_s
    return run.outcome(wall_s, cpu_s)


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """A run makes no cycles to find, but enough objects to have them searched all the time."""
    collects = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if collects:
            gc.enable()


class _Run:
    """One simulation. Jobs are named by their place in the workload."""

    def __init__(self, workload: Workload, predictions: Predictions, setup: Setup) -> None:
        self._workload = workload
        self._predictions = predictions
        self._lengths = _lengths(workload)
        self._engine = VirtualEngine(
            setup.step_time, setup.batching.places, setup.kv_tokens, setup.handover
        )
        self._core = _core(workload, setup)
        self._core.join(ENGINE, Room(setup.batching.places, setup.kv_tokens), setup.kv_tokens)
        self._waits_for_company = setup.batching.mode is Mode.DYNAMIC
        self._arrived = 0
        self._batch_id = 0
        jobs = len(self._lengths)
        self._start_s, self._first_s, self._end_s = ([math.nan] * jobs for _ in range(3))

    def to_the_end(self) -> None:
        """Arrivals, then starts, then steps, until nothing is left."""
        engine, core, jobs = self._engine, self._core, len(self._lengths)
        while self._arrived < jobs or engine.running or core.waiting_count:
            self._arrive()
            self._start()
            self._run()

    def _arrive(self) -> None:
        arrivals_s, now_s = self._workload.arrivals_s, self._engine.now_s
        while self._arrived < len(arrivals_s) and arrivals_s[self._arrived] <= now_s:
            self._core.submit(self._job(self._arrived))
            self._arrived += 1

    def _job(self, number: int) -> Job:
        request, p90 = self._workload.requests[number], self._predictions.p90_tokens
        return Job(
            job_id=number,
            request_id=request.request_id,
            arrival_s=self._workload.arrivals_s[number],
            prompt_tokens=request.prompt_tokens,
            max_tokens=request.max_tokens,
            predicted_tokens=self._predictions.tokens[number],
            predicted_p90_tokens=None if p90 is None else p90[number],
        )

    def _start(self) -> None:
        engine = self._engine
        if engine.places_free == 0 or self._core.waiting_count == 0:
            return
        batch = self._core.next_batch(ENGINE, engine.now_s)
        if batch is None:
            return
        self._batch_id = batch.batch_id
        for job in batch.jobs:
            engine.start(job.job_id, job.prompt_tokens, self._lengths[job.job_id], job.kv_tokens)
            self._start_s[job.job_id] = engine.now_s

    def _run(self) -> None:
        engine = self._engine
        until_s = self._next_call_s() if engine.places_free else math.inf
        if not engine.running:
            if until_s == math.inf and self._core.waiting_count:
                raise Stuck(f"{self._core.waiting_count} jobs wait that do not fit the engine")
            if until_s < math.inf:
                engine.idle_until(until_s)
            return
        ended = engine.run(until_s)
        for number, first_s in engine.first_tokens():
            self._first_s[number] = first_s
        if ended:
            self._end(ended)

    def _next_call_s(self) -> float:
        """When the core may have something to start, if no job ends before."""
        arrivals_s = self._workload.arrivals_s
        next_s = arrivals_s[self._arrived] if self._arrived < len(arrivals_s) else math.inf
        if self._waits_for_company and self._core.waiting_count:
            next_s = min(next_s, self._core.next_wake_s(self._engine.now_s))
        return next_s

    def _end(self, ended: list[int]) -> None:
        engine = self._engine
        for number in ended:
            request = self._workload.requests[number]
            engine.release(request.prompt_tokens + request.max_tokens)
            self._end_s[number] = engine.now_s
            self._core.finished(number, self._lengths[number])
        self._core.credit(ENGINE, Room(engine.places_free, engine.kv_free), self._batch_id)

    def outcome(self, wall_s: float, cpu_s: float) -> Outcome:
        """What was written down."""
        return Outcome(
            np.array(self._workload.arrivals_s),
            np.array(self._start_s),
            np.array(self._first_s),
            np.array(self._end_s),
            np.array(self._lengths),
            self._core.bound_violations,
            wall_s,
            cpu_s,
        )


def _lengths(workload: Workload) -> list[int]:
    lengths = [request.output_tokens for request in workload.requests]
    if any(length is None for length in lengths):
        raise ValueError("a simulation needs the length of every answer")
    return [length for length in lengths if length is not None]


def _core(workload: Workload, setup: Setup) -> SchedulingCore:
    times = setup.step_time
    truth = {each.request_id: each.output_tokens or 0 for each in workload.requests}
    options = setup.options
    if setup.policy == "oracle":
        options = replace(options, oracle_lengths=truth)
    return SchedulingCore(
        policy.create(setup.policy, options),
        Limits(
            max_queued=len(workload.requests),
            longest_answer_tokens=max(each.max_tokens for each in workload.requests),
        ),
        setup.batching,
        step_model=setup.step_model
        or StepModel(times.prefill_token_ms, times.decode_s(setup.batching.places) * 1e3),
    )
