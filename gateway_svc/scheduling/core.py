"""The SSJF queue: which waiting job starts next, on which engine, and what runs where.

Owns every accepted job from `submit` to its end, and the engines' credits. Knows no
clock (time is passed in), no network and no client. Called by the dispatcher from
one task; by the simulator in virtual time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from gateway_svc.scheduling import admission, invariants
from gateway_svc.scheduling.batching import Batching
from gateway_svc.scheduling.book import Book
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.credits import EngineCredits, Room
from gateway_svc.scheduling.entry import Entry, State
from gateway_svc.scheduling.expiries import Expiry
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.picker import Picker
from gateway_svc.scheduling.policy import Policy
from gateway_svc.scheduling.quota import UNLIMITED, Limits, Tenant


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs to start together on one engine, in the order of the schedule."""

    batch_id: int
    """Counted from 1 on each engine."""
    jobs: tuple[Job, ...]
    """At least one."""


@dataclass(frozen=True, slots=True)
class Departure:
    """What an engine that left had."""

    requeued: tuple[Job, ...]
    """Had sent nothing: back in the queue."""
    lost: tuple[Job, ...]
    """Had sent tokens: forgotten."""


class SchedulingCore:
    """The queue, the running jobs and the engines' credits.

    `tenants` need to be listed only where they have a weight or limits of their own.
    """

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
        self._step_model = step_model or StepModel()
        self._engines: dict[str, EngineCredits] = {}
        self._book = Book(
            policy,
            self._limits,
            batching or Batching(),
            tenants,
            self._step_model.prefill_work,
        )

    # Jobs -------------------------------------------------------------------

    def submit(self, job: Job) -> None:
        """Queues a new job. Raises CoreFull at a limit, ValueError for an id in use."""
        self._book.add(job)

    def reprice(
        self, job_id: int, predicted_tokens: float, predicted_p90_tokens: float | None = None
    ) -> bool:
        """Re-keys a waiting job under a new prediction; False where it no longer waits."""
        entry = self._book.entries.get(job_id)
        if entry is None or entry.state is State.RUNNING:
            return False
        entry.job = replace(
            entry.job, predicted_tokens=predicted_tokens, predicted_p90_tokens=predicted_p90_tokens
        )
        work = entry.prefill_work + entry.job.expected_output_tokens
        if entry.state is State.WAITING:
            entry.lane.reprice(entry, work)
        else:
            entry.work = work
        return True

    def cancel(self, job_id: int) -> str | None:
        """Forgets a job; returns the engine that runs it, None where it waited or is unknown.

        The engine's place is free again when the engine says so.
        """
        entry = self._book.entries.get(job_id)
        if entry is None:
            self._book.dropped.pop(job_id, None)
            return None
        if entry.state is State.RUNNING:
            self._end(entry)
            return entry.engine_id
        self._book.remove(entry)
        return None

    def expire(self, now_s: float) -> list[tuple[Job, Expiry]]:
        """Drops the waiting jobs whose deadline or queue time-out has passed. Never promotes."""
        self._book.sweep(now_s)
        dropped = list(self._book.dropped.values())
        self._book.dropped.clear()
        return dropped

    def progress(self, job_id: int, output_tokens: int) -> None:
        """The client of a running job has got `output_tokens` tokens so far, all together.

        With the first one it cannot silently start again elsewhere.
        """
        entry = self._running(job_id)
        if entry is not None:
            entry.output_tokens = output_tokens

    def has_output(self, job_id: int) -> None:
        """The job's client has got output, no matter how much."""
        entry = self._running(job_id)
        if entry is not None:
            entry.output_tokens = max(1, entry.output_tokens)

    def finished(self, job_id: int, output_tokens: int) -> None:
        """The job has ended at its engine after `output_tokens` tokens, and is forgotten.

        Its place is free when the engine says so.
        """
        entry = self._running(job_id)
        if entry is not None:
            entry.output_tokens = output_tokens
            self._end(entry)

    # Engines ----------------------------------------------------------------

    def join(
        self,
        engine_id: str,
        room: Room,
        max_job_tokens: int = UNLIMITED,
        max_sequences: int = UNLIMITED,
    ) -> None:
        """An engine is there, with `room` free. Raises ValueError where it already is.

        Jobs of more than `max_job_tokens` KV tokens are left to other engines; a job that no
        engine here can hold waits aside until one joins. `max_sequences`: places that it has
        in all; its batch, with the longest answers, is what the bound on being overtaken allows
        beside its share.
        """
        if engine_id in self._engines:
            raise ValueError(f"engine {engine_id} has already joined")
        self._engines[engine_id] = EngineCredits(room, max_job_tokens)
        self._book.widen(max_sequences)
        self._park()

    def credit(self, engine_id: str, room: Room, batch_id: int) -> None:
        """The engine says what it has free, as of the batch `batch_id`."""
        self._engines[engine_id].report(room, batch_id)

    def leave(self, engine_id: str) -> Departure:
        """An engine is gone: what has sent nothing waits again at its old place."""
        engine = self._engines.pop(engine_id, None)
        gone = list(engine.running.values()) if engine else []
        lost = [entry for entry in gone if entry.output_tokens]
        back = [entry for entry in gone if not entry.output_tokens]
        for entry in lost:
            self._book.end(entry)
        self._book.interrupt(back)
        self._book.resume(back)
        self._park()
        return Departure(tuple(each.job for each in back), tuple(each.job for each in lost))

    def next_batch(self, engine_id: str, now_s: float) -> Batch | None:
        """The jobs to start on this engine now, credits taken; None where none may.

        A job that only has to wait for KV tokens to become free is passed by smaller ones
        behind it, `max_passes` times at most. Expired jobs do not start: `expire` tells them.
        """
        engine, book = self._engines[engine_id], self._book
        book.sweep(now_s)
        waiting = book.total.queued - book.parked
        if not waiting:
            return None
        places = min(book.company.places(engine, waiting, now_s), book.total.may_run)
        if places <= 0:
            return None
        room_tokens, max_passes = engine.kv_tokens, self._limits.max_passes
        whole_batch = places if book.company.whole_batches else 0
        picker = Picker(book.classes, room_tokens, engine.largest, max_passes, now_s, whole_batch)
        chosen: list[Job] = []
        reserved_tokens = 0
        while len(chosen) < places and (entry := picker.pick()) is not None:
            book.start(entry)
            entry.engine_id = engine_id
            engine.running[entry.job_id] = entry
            chosen.append(entry.job)
            reserved_tokens += entry.kv_tokens
        picker.close()
        if not chosen:
            return None
        return Batch(engine.take(len(chosen), reserved_tokens), tuple(chosen))

    def set_tenants(self, tenants: Sequence[Tenant]) -> None:
        """Takes other weights and limits. Those that are not listed any more have none."""
        self._book.set_tenants(tenants)

    # Questions --------------------------------------------------------------

    @property
    def waiting_count(self) -> int:
        """Jobs in the queue."""
        return self._book.total.queued

    @property
    def running_count(self) -> int:
        """Jobs at engines."""
        return self._book.total.running

    @property
    def bound_violations(self) -> int:
        """Jobs that were overtaken by more work than the policy's bound allows."""
        return sum(lane.bound.violations for lane in self._book.lanes.values() if lane.bound)

    def next_expiry_s(self) -> float:
        """When `expire` may next have something to do; infinite where never."""
        return -float("inf") if self._book.dropped else self._book.expiries.next_s()

    def next_wake_s(self, now_s: float) -> float:
        """When the core next wants to be asked, with nothing else happening; infinite: never.

        `expire` then has something to do, or a dynamic batch has waited long enough.
        """
        idle = any(each.sequences and not each.running for each in self._engines.values())
        patience_s = self._book.company.patience_ends_s(now_s) if idle else float("inf")
        return max(now_s, min(self.next_expiry_s(), patience_s))

    def engine_of(self, job_id: int) -> str | None:
        """The engine that runs the job; None where it waits or is unknown."""
        entry = self._running(job_id)
        return None if entry is None else entry.engine_id

    def waiting(self, now_s: float = 0.0) -> list[Job]:
        """The waiting jobs, class by class and tenant by tenant, as they would start now."""
        lanes = sorted(self._book.lanes.values(), key=lambda lane: (lane.priority, lane.served))
        ordered = [entry.job for lane in lanes for entry in lane.line.in_order(now_s)]
        parked = [each.job for each in self._book.entries.values() if each.state is State.PARKED]
        return ordered + parked

    def running(self) -> list[tuple[Job, str]]:
        """The running jobs, each with its engine."""
        engines = self._engines.values()
        return [
            (each.job, each.engine_id) for engine in engines for each in engine.running.values()
        ]

    def turn(self) -> tuple[int, str] | None:
        """The class and tenant that the next job is taken from; None where none may start."""
        lane = self._book.classes.choose()
        return None if lane is None else (lane.priority, lane.account.tenant or "")

    def predicted_wait_s(self, job: Job, tokens_per_s: float) -> float:
        """Predicted seconds that `job` would wait if it were queued now.

        `tokens_per_s`: work that all engines together finish in a second, measured.
        """
        work = self._step_model.work_tokens(job, job.expected_output_tokens)
        by_length = self._policy.by_length
        return admission.work_ahead(self._book.lanes.values(), job, work, by_length) / tokens_per_s

    def can_meet(self, job: Job, now_s: float, tokens_per_s: float) -> bool:
        """Whether `job`, queued now, is predicted to end before its deadline."""
        work = self._step_model.work_tokens(job, job.expected_output_tokens)
        wait_s = self.predicted_wait_s(job, tokens_per_s)
        return now_s + wait_s + self._step_model.service_s(work) <= job.deadline_s

    def lanes(self) -> list[admission.LaneView]:
        """What each tenant has waiting and running in each class."""
        return [admission.view(lane) for lane in self._book.lanes.values()]

    def check(self) -> None:
        """Raises BrokenInvariant where one does not hold."""
        invariants.check(self._book, self._engines)

    # Inside -----------------------------------------------------------------

    def _running(self, job_id: int) -> Entry | None:
        entry = self._book.entries.get(job_id)
        return entry if entry is not None and entry.state is State.RUNNING else None

    def _end(self, entry: Entry) -> None:
        """A running job ends for good."""
        del self._engines[entry.engine_id].running[entry.job_id]
        self._book.end(entry)

    def _park(self) -> None:
        """Sets aside what no engine here can hold; with none here, nothing."""
        self._book.park(max((each.largest for each in self._engines.values()), default=UNLIMITED))
