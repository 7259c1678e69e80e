"""What one scheduling decision costs, with so many jobs waiting.

Owns the load: a queue of constant length on one engine, each turn of which a job comes, one
ends and one starts. Drives the live gateway's core with the real clock around its calls;
knows no network. Called by `ssjf bench scheduler`.
"""

from __future__ import annotations

import random
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import PolicyOptions
from gateway_svc.scheduling.quota import UNLIMITED, Limits
from ssjf_bench.latency import Latency, latency

ENGINE: Final = "engine"
MAX_TOKENS: Final = 1024
KV_TOKENS: Final = 10**9
INTERVAL_S: Final = 0.01


@dataclass(frozen=True, slots=True)
class SpeedLoad:
    """One case."""

    policy: str
    """Name of the policy."""
    queued: int
    """Jobs that wait all the time."""
    turns: int
    """Jobs that come, start and end while it is measured."""
    batch: int = 16
    """Places of the engine."""
    tenants: int = 1
    """Tenants that the jobs are of, in turn."""
    seed: int = 1
    """Of lengths and of who ends."""


@dataclass(frozen=True, slots=True)
class Speed:
    """Times of one case."""

    submit: Latency
    """A job comes."""
    finish: Latency
    """A job ends and its engine reports a free place."""
    decide: Latency
    """`next_batch`: one scheduling decision."""

    turn_us: float
    """Processor time of a whole turn: what one job costs from its arrival to its end."""


def measure(load: SpeedLoad) -> Speed:
    """Times every call of `load.turns` turns."""
    jobs = list(_jobs(load))
    core = _core(load)
    for job in jobs[: load.queued + load.batch]:
        core.submit(job)
    first = core.next_batch(ENGINE, 0.0)
    running = list(first.jobs) if first else []
    return _turns(core, running, jobs[load.queued + load.batch :], load)


def _turns(
    core: SchedulingCore, running: list[Job], coming: Sequence[Job], load: SpeedLoad
) -> Speed:
    rng = random.Random(load.seed)  # noqa: S311  # who ends next, not a secret
    submit: list[float] = []
    finish: list[float] = []
    decide: list[float] = []
    room, batch_id, clock = Room(1, KV_TOKENS), 1, time.perf_counter
    cpu_s = time.process_time()
    for job in coming:
        ended = running.pop(rng.randrange(len(running)))
        tokens = int(ended.expected_output_tokens)
        begun = clock()
        core.submit(job)
        submitted = clock()
        core.finished(ended.job_id, tokens)
        core.credit(ENGINE, room, batch_id)
        finished = clock()
        batch = core.next_batch(ENGINE, job.arrival_s)
        decided = clock()
        submit.append(submitted - begun)
        finish.append(finished - submitted)
        decide.append(decided - finished)
        if batch is not None:
            running.extend(batch.jobs)
            batch_id = batch.batch_id
    turn_us = 1e6 * (time.process_time() - cpu_s) / len(coming)
    return Speed(latency(submit), latency(finish), latency(decide), turn_us)


def _core(load: SpeedLoad) -> SchedulingCore:
    options = PolicyOptions(oracle_lengths={})
    limits = Limits(max_queued=UNLIMITED, longest_answer_tokens=MAX_TOKENS)
    batching = Batching(max_batch=load.batch)
    core = SchedulingCore(policy.create(load.policy, options), limits, batching)
    core.join(ENGINE, Room(load.batch, KV_TOKENS))
    return core


def _jobs(load: SpeedLoad) -> Iterator[Job]:
    rng = random.Random(load.seed)  # noqa: S311  # lengths, not a secret
    for number in range(load.queued + load.batch + load.turns):
        predicted = min(float(MAX_TOKENS), max(1.0, rng.lognormvariate(4.8, 0.9)))
        yield Job(
            job_id=number,
            request_id=str(number),
            arrival_s=number * INTERVAL_S,
            prompt_tokens=1 + number % 512,
            max_tokens=MAX_TOKENS,
            predicted_tokens=predicted,
            tenant=f"tenant-{number % load.tenants}",
        )
