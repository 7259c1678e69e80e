"""The scheduling core against a plain sorted list, with engines that answer late."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import hypothesis.strategies as st
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
)

from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.scheduling.policies.ssjf import Ssjf
from gateway_svc.scheduling.policy import PolicyOptions
from gateway_svc.scheduling.quota import CoreFull, Limits
from tests.gateway_svc.scheduling.jobs import ids

LIMITS = Limits(max_queued=12, queue_timeout_s=50.0, max_passes=3)
PLACES, KV_TOKENS, MAX_JOB_TOKENS = 3, 300, 200
ENGINES = ("a", "b")


@dataclass
class Reference:
    """A waiting or running job, as the list knows it."""

    job: Job
    arrival: int
    passes: int = 0
    engine: str | None = None
    has_output: bool = False

    @property
    def place(self) -> tuple[int, float, int]:
        cost = self.job.prompt_tokens * 0.05 + self.job.expected_output_tokens * 6.5
        return int(self.job.priority), cost, self.arrival

    def expired(self, now_s: float) -> bool:
        return now_s >= min(self.job.deadline_s, self.job.arrival_s + LIMITS.queue_timeout_s)


@dataclass
class Engine:
    """What an engine has really taken, and what is on its way in both directions."""

    holds: dict[int, int] = field(default_factory=dict)
    """KV tokens by job."""
    seen_batch_id: int = 0
    coming: list[tuple[int, list[Job]] | int] = field(default_factory=list)
    """Batches, and jobs to cancel, that it has not received yet."""
    reports: list[tuple[Room, int, int | None]] = field(default_factory=list)
    """Room, as of which batch, and which job has finished: not delivered yet."""
    told: tuple[Room, int] = Room(PLACES, KV_TOKENS), 0
    """The last report that was delivered."""
    sent: list[tuple[int, list[Job]]] = field(default_factory=list)
    """Every batch that the core gave."""

    def report(self, finished: int | None = None) -> None:
        room = Room(PLACES - len(self.holds), KV_TOKENS - sum(self.holds.values()))
        self.reports.append((room, self.seen_batch_id, finished))


class CoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.core = SchedulingCore(Ssjf(PolicyOptions()), LIMITS)
        self.now_s = 0.0
        self.submitted = 0
        self.jobs: dict[int, Reference] = {}
        self.ended: list[int] = []
        self.engines: dict[str, Engine] = {}

    # What clients do

    @rule(
        prompt=st.sampled_from([1, 40]),
        most=st.integers(1, 250),
        predicted=st.sampled_from([1.0, 5.0, 20.0, 20.0, 90.0]),
        priority=st.sampled_from(Priority),
        patience_s=st.sampled_from([1.0, 20.0, 1e9]),
    )
    def submit(
        self, prompt: int, most: int, predicted: float, priority: Priority, patience_s: float
    ) -> None:
        self.submitted += 1
        number, deadline_s = self.submitted, self.now_s + patience_s
        job = Job(number, f"r{number}", self.now_s, prompt, most, predicted, priority, deadline_s)
        full = len(self.waiting()) >= LIMITS.max_queued
        try:
            self.core.submit(job)
        except CoreFull:
            assert full
            return
        assert not full
        self.jobs[number] = Reference(job, number)

    @precondition(lambda self: self.jobs)
    @rule(data=st.data(), predicted=st.sampled_from([1.0, 20.0, 90.0]))
    def reprice(self, data: st.DataObject, predicted: float) -> None:
        number = data.draw(st.sampled_from(sorted(self.jobs)))
        waits = self.jobs[number].engine is None
        assert self.core.reprice(number, predicted) == waits
        if waits:
            job = replace(self.jobs[number].job, predicted_tokens=predicted)
            self.jobs[number].job = job

    @precondition(lambda self: self.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.jobs)))
        engine = self.jobs[number].engine
        assert self.core.cancel(number) == engine
        if engine is not None:
            self.engines[engine].coming.append(number)
        self.end(number)

    @rule(seconds=st.sampled_from([0.5, 5.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def expire(self) -> None:
        late = {entry.job.job_id for entry in self.waiting() if entry.expired(self.now_s)}
        dropped = [job.job_id for job, _ in self.core.expire(self.now_s)]
        assert sorted(dropped) == sorted(late)
        for number in dropped:
            self.end(number)

    # What the gateway and its engines do

    @rule(name=st.sampled_from(ENGINES))
    def next_batch(self, name: str) -> None:
        if name not in self.engines:
            self.engines[name] = Engine()
            self.core.join(name, Room(PLACES, KV_TOKENS), MAX_JOB_TOKENS)
        expected = self.expected_batch(name)
        batch = self.core.next_batch(name, self.now_s)
        assert ids(batch) == expected
        if batch is not None:
            message = (batch.batch_id, list(batch.jobs))
            self.engines[name].coming.append(message)
            self.engines[name].sent.append(message)
            for job in batch.jobs:
                self.jobs[job.job_id].engine = name
                self.jobs[job.job_id].passes = 0

    @precondition(lambda self: any(engine.coming for engine in self.engines.values()))
    @rule(data=st.data())
    def engine_receives(self, data: st.DataObject) -> None:
        engine = data.draw(st.sampled_from([e for e in self.engines.values() if e.coming]))
        message = engine.coming.pop(0)
        if isinstance(message, int):
            engine.holds.pop(message, None)
        else:
            engine.seen_batch_id, jobs = message
            engine.holds.update({job.job_id: job.kv_tokens for job in jobs})
        assert len(engine.holds) <= PLACES, "more than the engine has places for"
        assert sum(engine.holds.values()) <= KV_TOKENS, "more than the engine has memory for"
        engine.report()

    @precondition(lambda self: any(engine.holds for engine in self.engines.values()))
    @rule(data=st.data())
    def engine_finishes_one(self, data: st.DataObject) -> None:
        engine = data.draw(st.sampled_from([e for e in self.engines.values() if e.holds]))
        number = data.draw(st.sampled_from(sorted(engine.holds)))
        del engine.holds[number]
        engine.report(finished=number)

    @precondition(lambda self: any(engine.reports for engine in self.engines.values()))
    @rule(data=st.data())
    def report_arrives(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from([n for n, e in self.engines.items() if e.reports]))
        room, batch_id, finished = self.engines[name].reports.pop(0)
        if finished is not None and finished in self.jobs:
            self.core.finished(finished, 5)
            self.end(finished)
        self.core.credit(name, room, batch_id)
        self.engines[name].told = (room, batch_id)

    @precondition(lambda self: any(entry.engine for entry in self.jobs.values()))
    @rule(data=st.data())
    def output_comes(self, data: st.DataObject) -> None:
        running = sorted(n for n, entry in self.jobs.items() if entry.engine)
        number = data.draw(st.sampled_from(running))
        self.core.has_output(number)
        self.jobs[number].has_output = True

    @precondition(lambda self: self.engines)
    @rule(data=st.data())
    def engine_dies(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.engines)))
        del self.engines[name]
        had = {n: entry for n, entry in self.jobs.items() if entry.engine == name}
        departure = self.core.leave(name)
        assert {job.job_id for job in departure.lost} == {
            number for number, entry in had.items() if entry.has_output
        }
        assert {job.job_id for job in departure.requeued} | {
            job.job_id for job in departure.lost
        } == had.keys()
        for number, entry in had.items():
            if entry.has_output:
                self.end(number)
            entry.engine = None

    # What holds at all times

    @invariant()
    def nothing_is_lost_and_nothing_is_there_twice(self) -> None:
        self.core.check()
        waiting = [job.job_id for job in self.core.waiting()]
        running = [job.job_id for job, _ in self.core.running()]
        everything = waiting + running + self.ended
        assert len(everything) == len(set(everything))
        assert set(waiting + running) == self.jobs.keys()

    @invariant()
    def the_queue_is_in_order(self) -> None:
        assert self.core.waiting() == [entry.job for entry in self.waiting()]

    # The reference

    def waiting(self) -> list[Reference]:
        waiting = [entry for entry in self.jobs.values() if entry.engine is None]
        return sorted(waiting, key=lambda entry: entry.place)

    def end(self, number: int) -> None:
        del self.jobs[number]
        self.ended.append(number)

    def room(self, name: str) -> Room:
        """The last report, less every batch sent since: written down again from the messages."""
        engine = self.engines[name]
        reported, batch_id = engine.told
        jobs = [job for number, batch in engine.sent if number > batch_id for job in batch]
        room = Room(
            reported.sequences - len(jobs),
            reported.kv_tokens - sum(job.kv_tokens for job in jobs),
        )
        assert min(room.sequences, room.kv_tokens) >= 0, "credits are negative"
        return room

    def expected_batch(self, name: str) -> list[int]:
        """What must start now; counts whom that passes."""
        room, chosen, passed = self.room(name), list[int](), list[Reference]()
        for entry in self.waiting():
            if room.sequences == 0 or any(e.passes >= LIMITS.max_passes for e in passed):
                break
            if entry.expired(self.now_s) or entry.job.kv_tokens > MAX_JOB_TOKENS:
                continue
            if room.fits(entry.job):
                room = room.without(entry.job)
                chosen.append(entry.job.job_id)
                for other in passed:
                    other.passes += 1
            else:
                passed.append(entry)
        return chosen


TestCoreMachine = CoreMachine.TestCase
TestCoreMachine.settings = settings(
    max_examples=200,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
