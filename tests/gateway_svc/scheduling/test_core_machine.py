"""The scheduling core against the slow reference, with engines that answer late."""

from __future__ import annotations

from dataclasses import dataclass, field

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)

from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.scheduling.policy import PolicyOptions
from gateway_svc.scheduling.quota import CoreFull, Limits, Tenant
from tests.gateway_svc.scheduling.exploration import made
from tests.gateway_svc.scheduling.jobs import ids
from tests.gateway_svc.scheduling.reference import PREFILL, Known, Reference

ALPHA = 1.5


TENANTS = [
    Tenant("heavy", weight=2.0, max_queued=8, max_running=3),
    Tenant("light", max_queued_tokens=500),
]
LENGTHS = [(1, 1.0), (5, 1.0), (5, 1.0), (5, 5.0), (60, 1.0), (60, 20.0), (200, 90.0), (300, 20.0)]
"""max_tokens and predicted tokens."""
PLACES, KV_TOKENS = 3, 300
ENGINES = {"a": 300, "b": 120}
"""KV tokens of the largest job that each can hold."""


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

    def report(self, finished: int | None = None) -> None:
        room = Room(PLACES - len(self.holds), KV_TOKENS - sum(self.holds.values()))
        self.reports.append((room, self.seen_batch_id, finished))


class CoreMachine(RuleBasedStateMachine):
    @initialize(
        name=st.sampled_from(["bounded-ssjf", "bounded-ssjf", "lifo", "lifo", "ssjf", "fcfs"]),
        mode=st.sampled_from(Mode),
        longest=st.sampled_from([1, 5, 20, 60]),
        max_running=st.sampled_from([2, 100]),
        max_batch=st.sampled_from([1, 2, 4, 4]),
        max_passes=st.sampled_from([0, 1, 3]),
        seconds=st.sampled_from([0.0, 4.0]),
        shares=st.sampled_from([(0.0, 0.0, 0.0), (0.0, 0.25, 0.125)]),
        one_lane=st.booleans(),
    )
    def begin(
        self,
        name: str,
        mode: Mode,
        longest: int,
        max_running: int,
        max_batch: int,
        max_passes: int,
        seconds: float,
        shares: tuple[float, float, float],
        one_lane: bool,
    ) -> None:
        limits = Limits(
            max_queued=12,
            max_queued_tokens=1500,
            max_running=max_running,
            queue_timeout_s=50.0,
            max_passes=max_passes,
            longest_answer_tokens=longest,
            class_shares=shares,
        )
        batching = Batching(mode, max_batch=max_batch, max_wait_s=seconds)
        self.core = SchedulingCore(
            made(name, PolicyOptions(alpha=ALPHA)),
            limits,
            batching,
            TENANTS,
            StepModel(PREFILL, 1.0),
        )
        self.reference = Reference(name, ALPHA, limits, batching, TENANTS)
        self.one_lane = one_lane
        self.now_s = 0.0
        self.submitted = 0
        self.ended: list[int] = []
        self.untold: set[int] = set()
        self.engines: dict[str, Engine] = {}

    # What clients do

    @rule(
        prompt=st.sampled_from([8, 40]),
        cached=st.sampled_from([0, 8]),
        burst=st.lists(st.sampled_from(LENGTHS), min_size=1, max_size=4),
        priority=st.sampled_from([*Priority, Priority.STANDARD, Priority.STANDARD]),
        tenant=st.sampled_from(["heavy", "light", "other", "other"]),
        patience_s=st.sampled_from([1.0, 1e9, 1e9, 1e9]),
        reserved=st.sampled_from([None, None, 20]),
    )
    def submit(
        self,
        prompt: int,
        cached: int,
        burst: list[tuple[int, float]],
        priority: Priority,
        tenant: str,
        patience_s: float,
        reserved: int | None,
    ) -> None:
        for max_tokens, predicted_tokens in burst:
            self.submitted += 1
            job = Job(
                job_id=self.submitted,
                request_id=f"r{self.submitted}",
                arrival_s=self.now_s,
                prompt_tokens=prompt,
                max_tokens=max_tokens,
                predicted_tokens=predicted_tokens,
                priority=Priority.STANDARD if self.one_lane else priority,
                deadline_s=self.now_s + patience_s,
                tenant="other" if self.one_lane else tenant,
                cached_prompt_tokens=cached,
                reserved_kv_tokens=reserved,
            )
            self.offer(job)

    def offer(self, job: Job) -> None:
        refused = self.reference.refuses(job)
        if refused is not None:
            with pytest.raises(CoreFull) as full:
                self.core.submit(job)
            assert (full.value.subject, full.value.tenant) == refused
            return
        self.core.submit(job)
        self.reference.submit(job)

    @precondition(lambda self: self.reference.jobs)
    @rule(data=st.data(), predicted=st.sampled_from([1.0, 20.0, 90.0]))
    def reprice(self, data: st.DataObject, predicted: float) -> None:
        number = data.draw(st.sampled_from(sorted(self.reference.jobs)))
        assert self.core.reprice(number, predicted) == self.reference.reprice(number, predicted)

    @precondition(lambda self: self.reference.jobs)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        number = data.draw(st.sampled_from(sorted(self.reference.jobs)))
        engine = self.reference.jobs[number].engine
        assert self.core.cancel(number) == engine
        if engine is not None:
            self.engines[engine].coming.append(number)
        self.end(number)

    @rule(seconds=st.sampled_from([0.5, 5.0, 30.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds

    @rule()
    def expire(self) -> None:
        self.sweep()
        assert {job.job_id for job, _ in self.core.expire(self.now_s)} == self.untold
        self.untold.clear()

    # What the gateway and its engines do

    @rule(name=st.sampled_from(sorted(ENGINES)))
    def next_batch(self, name: str) -> None:
        if name not in self.engines:
            self.engines[name] = Engine()
            room = Room(PLACES, KV_TOKENS)
            self.core.join(name, room, ENGINES[name])
            self.reference.join(name, room, ENGINES[name])
        self.sweep()
        expected = self.reference.next_batch(name, self.now_s)
        batch = self.core.next_batch(name, self.now_s)
        assert ids(batch) == expected
        if batch is not None:
            self.engines[name].coming.append((batch.batch_id, list(batch.jobs)))

    @precondition(lambda self: any(engine.coming for engine in self.engines.values()))
    @rule(data=st.data())
    def engine_receives(self, data: st.DataObject) -> None:
        self.receive(data.draw(st.sampled_from([e for e in self.engines.values() if e.coming])))

    def receive(self, engine: Engine) -> None:
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
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.5, 1.0]))
    def report_arrives(self, data: st.DataObject, share: float) -> None:
        name = data.draw(st.sampled_from([n for n, e in self.engines.items() if e.reports]))
        self.hear(name, share)

    @precondition(lambda self: self.reference.running())
    @rule(data=st.data(), share=st.sampled_from([0.0, 0.5, 1.0]))
    def engine_catches_up_and_finishes_one(self, data: st.DataObject, share: float) -> None:
        running = self.reference.running()
        known: Known = data.draw(st.sampled_from(running))
        name = known.engine or ""
        engine = self.engines[name]
        while engine.coming:
            self.receive(engine)
        if engine.holds.pop(known.job.job_id, None) is not None:
            engine.report(finished=known.job.job_id)
        while engine.reports:
            self.hear(name, share)

    def hear(self, name: str, share: float) -> None:
        room, batch_id, finished = self.engines[name].reports.pop(0)
        known = self.reference.jobs.get(finished or 0)
        if known is not None:
            tokens = max(known.output_tokens, int(share * known.job.max_tokens))
            self.core.finished(known.job.job_id, tokens)
            self.end(known.job.job_id, tokens)
        self.core.credit(name, room, batch_id)
        book = self.reference.engines[name]
        book.room, book.seen = room, batch_id

    @precondition(lambda self: self.reference.running())
    @rule(data=st.data())
    def output_comes(self, data: st.DataObject) -> None:
        running = self.reference.running()
        known: Known = data.draw(st.sampled_from(running))
        known.output_tokens = min(known.output_tokens + 3, known.job.max_tokens)
        self.core.progress(known.job.job_id, known.output_tokens)

    @precondition(lambda self: self.engines)
    @rule(data=st.data())
    def engine_dies(self, data: st.DataObject) -> None:
        name = data.draw(st.sampled_from(sorted(self.engines)))
        del self.engines[name]
        back, lost = self.reference.leave(name)
        departure = self.core.leave(name)
        assert sorted(job.job_id for job in departure.requeued) == sorted(j.job_id for j in back)
        assert sorted(job.job_id for job in departure.lost) == sorted(j.job_id for j in lost)
        self.ended += [job.job_id for job in lost]

    # What holds at all times

    @invariant()
    def nothing_is_lost_and_nothing_is_there_twice(self) -> None:
        self.core.check()
        waiting = [job.job_id for job in self.core.waiting()]
        running = [job.job_id for job, _ in self.core.running()]
        everything = waiting + running + self.ended
        assert len(everything) == len(set(everything))
        late = {number for number in waiting if number not in self.reference.jobs}
        assert set(waiting + running) - late == self.reference.jobs.keys()
        assert self.core.running_count == len(running)

    @invariant()
    def each_lane_is_in_order_and_no_one_is_overtaken_too_much(self) -> None:
        assert self.core.bound_violations == 0
        waiting = self.core.waiting()
        for lane in self.reference.lanes.values():
            known = self.reference.in_order(lane)
            listed = [job for job in waiting if (job.tenant, job.priority) == place(known)]
            listed = [job for job in listed if not self.reference.jobs[job.job_id].parked]
            assert listed == [each.job for each in known]

    # The reference

    def sweep(self) -> None:
        for number in self.reference.expired(self.now_s):
            self.end(number)
            self.untold.add(number)

    def end(self, number: int, output_tokens: int | None = None) -> None:
        self.reference.end(number, output_tokens)
        self.ended.append(number)


def place(known: list[Known]) -> tuple[str, int] | None:
    return (known[0].job.tenant, known[0].job.priority) if known else None


TestCoreMachine = pytest.mark.timeout(300)(CoreMachine.TestCase)
TestCoreMachine.settings = settings(
    max_examples=500,
    stateful_step_count=50,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
