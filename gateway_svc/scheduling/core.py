"""The SSJF queue: which waiting job starts next, on which engine, and what runs where.

Owns every accepted job from `submit` to its end, and the engines' credits. Knows no
clock (time is passed in), no network and no client. Called by the dispatcher from
one task; by the simulator in virtual time.
"""

from __future__ import annotations

import heapq
import itertools
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from gateway_svc.scheduling.batching import Batching
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.credits import EngineCredits, Room
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import Policy
from gateway_svc.scheduling.quota import CoreFull, Limits, Tenant


class BrokenInvariant(Exception):
    """The core contradicts itself: a bug."""


class Expiry(Enum):
    """Why a waiting job was dropped."""

    DEADLINE = "deadline"
    QUEUE_TIMEOUT = "queue_timeout"


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs to start together on one engine, in the order of the schedule."""

    batch_id: int
    jobs: tuple[Job, ...]


@dataclass(frozen=True, slots=True)
class Departure:
    """What an engine that left had: jobs back in the queue, and jobs that had sent tokens."""

    requeued: tuple[Job, ...]
    lost: tuple[Job, ...]


@dataclass(slots=True)
class _Waiting:
    job: Job
    place: tuple[int, float, int]
    """Class, the policy's key, number of arrival: the order of the queue."""
    passes: int = 0


@dataclass(slots=True)
class _Running:
    job: Job
    engine_id: str
    arrival: int
    has_output: bool = False


class SchedulingCore:
    """The queue, the running jobs and the engines' credits."""

    def __init__(
        self,
        policy: Policy,
        limits: Limits | None = None,
        batching: Batching | None = None,
        tenants: Sequence[Tenant] = (),
        step_model: StepModel | None = None,
    ) -> None:
        self._policy = policy
        self._limits = limits or Limits()
        self._batching = batching or Batching()
        self._tenants = {tenant.name: tenant for tenant in tenants}
        self._step_model = step_model or StepModel()
        self._arrivals = itertools.count()
        self._waiting: dict[int, _Waiting] = {}
        self._running: dict[int, _Running] = {}
        self._engines: dict[str, EngineCredits] = {}
        # Heaps hold entries of jobs that have left or moved; `_waiting` says what is current.
        self._order: list[tuple[tuple[int, float, int], int]] = []
        self._expiries: list[tuple[float, int]] = []

    @property
    def waiting_count(self) -> int:
        """Jobs in the queue."""
        return len(self._waiting)

    @property
    def running_count(self) -> int:
        """Jobs at engines."""
        return len(self._running)

    def submit(self, job: Job) -> None:
        """Queues a new job. Raises CoreFull at the bound, ValueError for an id in use."""
        if job.job_id in self._waiting or job.job_id in self._running:
            raise ValueError(f"job {job.job_id} is already here")
        if len(self._waiting) >= self._limits.max_queued:
            raise CoreFull("queued_requests", self._limits.max_queued)
        self._enqueue(job, next(self._arrivals))
        heapq.heappush(self._expiries, (self._expires_s(job), job.job_id))

    def reprice(
        self, job_id: int, predicted_tokens: float, predicted_p90_tokens: float | None = None
    ) -> bool:
        """Re-keys a waiting job under a new prediction; False where it no longer waits."""
        entry = self._waiting.get(job_id)
        if entry is None:
            return False
        job = replace(
            entry.job, predicted_tokens=predicted_tokens, predicted_p90_tokens=predicted_p90_tokens
        )
        self._enqueue(job, entry.place[2], entry.passes)
        return True

    def cancel(self, job_id: int) -> str | None:
        """Forgets a job; returns the engine that runs it, None where it waited or is unknown.

        The engine's place is free again when the engine says so.
        """
        self._waiting.pop(job_id, None)
        running = self._running.pop(job_id, None)
        return running.engine_id if running else None

    def expire(self, now_s: float) -> list[tuple[Job, Expiry]]:
        """Drops the waiting jobs whose deadline or queue time-out has passed. Never promotes."""
        dropped: list[tuple[Job, Expiry]] = []
        while self._expiries and self._expiries[0][0] <= now_s:
            _, job_id = heapq.heappop(self._expiries)
            entry = self._waiting.pop(job_id, None)
            if entry is not None:
                late = entry.job.deadline_s <= now_s
                dropped.append((entry.job, Expiry.DEADLINE if late else Expiry.QUEUE_TIMEOUT))
        return dropped

    def next_expiry_s(self) -> float:
        """When `expire` may next have something to do; infinite where never."""
        while self._expiries and self._expiries[0][1] not in self._waiting:
            heapq.heappop(self._expiries)
        return self._expiries[0][0] if self._expiries else float("inf")

    def join(self, engine_id: str, room: Room, max_job_tokens: int = sys.maxsize) -> None:
        """An engine is there, with `room` free. Raises ValueError where it already is.

        Jobs of more than `max_job_tokens` KV tokens are left to other engines.
        """
        if engine_id in self._engines:
            raise ValueError(f"engine {engine_id} has already joined")
        self._engines[engine_id] = EngineCredits(room, max_job_tokens)

    def credit(self, engine_id: str, room: Room, batch_id: int) -> None:
        """The engine says what it has free, as of the batch `batch_id`."""
        self._engines[engine_id].report(room, batch_id)

    def leave(self, engine_id: str) -> Departure:
        """An engine is gone: what has sent nothing waits again at its old place."""
        self._engines.pop(engine_id, None)
        gone = [entry for entry in self._running.values() if entry.engine_id == engine_id]
        for entry in gone:
            del self._running[entry.job.job_id]
        requeued = [entry for entry in gone if not entry.has_output]
        for entry in requeued:
            self._enqueue(entry.job, entry.arrival)
            heapq.heappush(self._expiries, (self._expires_s(entry.job), entry.job.job_id))
        return Departure(
            tuple(entry.job for entry in requeued),
            tuple(entry.job for entry in gone if entry.has_output),
        )

    def next_batch(self, engine_id: str, now_s: float) -> Batch | None:
        """The jobs to start on this engine now, credits taken; None where none fits or waits.

        Expired jobs are skipped and left to `expire`, jobs too large for this engine to
        other engines. A job that only has to wait for KV tokens to become free is passed
        by smaller ones behind it, `max_passes` times at most.
        """
        account = self._engines[engine_id]
        room = account.available()
        chosen: list[Job] = []
        skipped: list[_Waiting] = []
        passed: list[tuple[_Waiting, int]] = []
        may_start = sys.maxsize  # how many more before one that was passed has had enough
        for entry in self._in_order(room):
            if self._expires_s(entry.job) <= now_s or entry.job.kv_tokens > account.max_job_tokens:
                skipped.append(entry)
            elif room.fits(entry.job):
                room = room.without(entry.job)
                chosen.append(entry.job)
                self._start(entry, engine_id)
                may_start -= 1
            else:
                passed.append((entry, len(chosen)))
                may_start = min(may_start, self._limits.max_passes - entry.passes)
            if room.sequences == 0 or may_start <= 0:
                break
        for entry, started_before in passed:
            entry.passes += len(chosen) - started_before
        for entry in itertools.chain(skipped, (entry for entry, _ in passed)):
            heapq.heappush(self._order, (entry.place, entry.job.job_id))
        return Batch(account.take(chosen), tuple(chosen)) if chosen else None

    def has_output(self, job_id: int) -> None:
        """The job's client has got output: it cannot silently start again elsewhere."""
        if job_id in self._running:
            self._running[job_id].has_output = True

    def progress(self, job_id: int, output_tokens: int) -> None:
        """The client of a running job has got `output_tokens` tokens so far, all together."""
        if output_tokens > 0:
            self.has_output(job_id)

    def finished(self, job_id: int, output_tokens: int) -> None:
        """The job has ended at its engine after `output_tokens` tokens, and is forgotten.

        Its place is free when the engine says so.
        """
        self._running.pop(job_id, None)

    @property
    def bound_violations(self) -> int:
        """Jobs that were overtaken by more work than the policy's bound allows."""
        return 0

    def next_wake_s(self, now_s: float) -> float:
        """When the core next wants to be asked, with nothing else happening; infinite: never.

        `expire` then has something to do, or a dynamic batch has waited long enough.
        """
        return max(now_s, self.next_expiry_s())

    def predicted_wait_s(self, job: Job, tokens_per_s: float) -> float:
        """Predicted seconds that `job` would wait if it were queued now.

        `tokens_per_s` is the rate at which all engines together work off the queue.
        """
        waiting = sum(entry.job.expected_output_tokens for entry in self._waiting.values())
        return waiting / tokens_per_s

    def can_meet(self, job: Job, now_s: float, tokens_per_s: float) -> bool:
        """Whether `job`, queued now, is predicted to end before its deadline."""
        return now_s + self.predicted_wait_s(job, tokens_per_s) < job.deadline_s

    def engine_of(self, job_id: int) -> str | None:
        """The engine that runs the job; None where it waits or is unknown."""
        running = self._running.get(job_id)
        return running.engine_id if running else None

    def waiting(self) -> list[Job]:
        """The waiting jobs in the order in which they would start now."""
        ordered = sorted(self._waiting.values(), key=lambda entry: entry.place)
        return [entry.job for entry in ordered]

    def running(self) -> list[tuple[Job, str]]:
        """The running jobs, each with its engine."""
        return [(entry.job, entry.engine_id) for entry in self._running.values()]

    def check(self) -> None:
        """Raises BrokenInvariant where one does not hold."""
        current = {(entry.place, job_id) for job_id, entry in self._waiting.items()}
        engines = {entry.engine_id for entry in self._running.values()}
        if not current <= set(self._order):
            raise BrokenInvariant("a waiting job is not in the heap")
        if not self._waiting.keys() <= {job_id for _, job_id in self._expiries}:
            raise BrokenInvariant("a waiting job would never expire")
        if self._waiting.keys() & self._running.keys():
            raise BrokenInvariant("a job waits and runs")
        if not engines <= self._engines.keys():
            raise BrokenInvariant("a job runs on an engine that left")

    def _expires_s(self, job: Job) -> float:
        return min(job.deadline_s, job.arrival_s + self._limits.queue_timeout_s)

    def _enqueue(self, job: Job, arrival: int, passes: int = 0) -> None:
        place = (int(job.priority), self._policy.key(job), arrival)
        self._waiting[job.job_id] = _Waiting(job, place, passes)
        heapq.heappush(self._order, (place, job.job_id))
        self._compact()

    def _compact(self) -> None:
        """Drops what jobs that left or moved have in the heaps, before it outweighs the rest."""
        most = 64 + 2 * len(self._waiting)
        if len(self._order) > most:
            self._order = [(entry.place, job_id) for job_id, entry in self._waiting.items()]
            heapq.heapify(self._order)
        if len(self._expiries) > most:
            waiting = self._waiting.items()
            self._expiries = [(self._expires_s(entry.job), job_id) for job_id, entry in waiting]
            heapq.heapify(self._expiries)

    def _in_order(self, room: Room) -> Iterator[_Waiting]:
        """Takes current entries off the heap, in order, while there is a place to fill."""
        if room.sequences == 0:
            return
        seen: set[int] = set()  # a job repriced there and back has two entries of one place
        while self._order:
            place, job_id = heapq.heappop(self._order)
            entry = self._waiting.get(job_id)
            if entry is not None and entry.place == place and job_id not in seen:
                seen.add(job_id)
                yield entry

    def _start(self, entry: _Waiting, engine_id: str) -> None:
        del self._waiting[entry.job.job_id]
        self._running[entry.job.job_id] = _Running(entry.job, engine_id, entry.place[2])
