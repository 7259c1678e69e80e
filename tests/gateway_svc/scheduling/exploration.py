"""Every interleaving of a few requests, two engines and their faults, one after the other.

Each path is replayed on a fresh core from its start; each event that no path before had
reached leads to a new state, which is checked. What is checked is kept by the world itself,
from what was put in and came out. Run whole by `make explore`, in part by the tests.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import permutations

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.lines import KeyedLine
from gateway_svc.scheduling.policy import LaneWork, Line, Policy, PolicyOptions
from gateway_svc.scheduling.quota import Limits

ENGINES = ("a", "b")
ROOM = Room(1, 10**9)
Event = tuple[str, int | str]


class BoundedLifo:
    """Last come, first served: all that stands against it is the bound."""

    by_length = False

    def __init__(self, options: PolicyOptions) -> None:
        self.alpha = options.alpha

    def line(self, work: LaneWork) -> Line:
        """The latest first."""
        del work
        return KeyedLine(lambda entry: -entry.number)


@dataclass(frozen=True, slots=True)
class Length:
    """One request: what is predicted, what comes, what may come."""

    predicted: float
    actual: int
    most: int


@dataclass(frozen=True, slots=True)
class Scenario:
    """What is explored. Faults: how many cancellations and departures a path may have."""

    policy: str
    lengths: tuple[Length, ...]
    alpha: float = 1.5
    longest: int = 4
    cancels: int = 0
    departures: int = 0


@dataclass(slots=True)
class History:
    """One job, as it was seen from outside."""

    ahead: set[int] = field(default_factory=set)
    """Earlier jobs that had not ended when it came, or came back."""
    overtakers: set[int] = field(default_factory=set)
    """Later jobs that started while it waited."""
    engine: str | None = None
    tokens: int = 0
    state: str = "waits"


class World:
    """A core with two engines of one place each."""

    def __init__(self, scenario: Scenario) -> None:
        options = PolicyOptions(alpha=scenario.alpha)
        limits = Limits(longest_answer_tokens=scenario.longest)
        self.scenario = scenario
        self.core = SchedulingCore(
            made(scenario.policy, options), limits, Batching(max_batch=1), (), StepModel(0.0, 1.0)
        )
        self.jobs: dict[int, History] = {}
        self.here: dict[str, int] = {}
        """Engines and the last batch that each was given."""
        self.cancels, self.departures = scenario.cancels, scenario.departures
        for engine in ENGINES:
            self.join(engine)

    def events(self) -> list[Event]:
        """What can happen next."""
        found: list[Event] = []
        running = [number for number, job in self.jobs.items() if job.state == "runs"]
        waiting = [number for number, job in self.jobs.items() if job.state == "waits"]
        busy = {self.jobs[number].engine for number in running}
        more = len(self.jobs) < len(self.scenario.lengths)
        if more:
            found.append(("submit", len(self.jobs)))
        if waiting:
            found += [("start", engine) for engine in self.here if engine not in busy]
        found += [("finish", number) for number in running]
        if more or waiting or running:
            if self.cancels:
                found += [("cancel", number) for number in (*waiting, *running)]
            if self.departures:
                found += [("output", n) for n in running if not self.jobs[n].tokens]
                found += [("leave", engine) for engine in self.here]
            found += [("join", engine) for engine in ENGINES if engine not in self.here]
        return found

    def apply(self, event: Event) -> None:
        """Lets it happen."""
        name, subject = event
        getattr(self, name)(subject)

    def submit(self, number: int) -> None:
        length = self.scenario.lengths[number]
        self.jobs[number] = History(ahead=self.open_before(number))
        self.core.submit(Job(number, f"r{number}", 0.0, 1, length.most, length.predicted))

    def start(self, engine: str) -> None:
        batch = self.core.next_batch(engine, 0.0)
        assert batch is not None, "a place stays empty while a job waits"
        (job,) = batch.jobs
        started = self.jobs[job.job_id]
        assert started.state == "waits", "a job starts that does not wait"
        self.check_order(job.job_id)
        started.state, started.engine = "runs", engine
        self.here[engine] = batch.batch_id
        for number, other in self.jobs.items():
            if other.state == "waits" and number < job.job_id:
                other.overtakers.add(job.job_id)

    def finish(self, number: int) -> None:
        job = self.jobs[number]
        job.tokens = self.scenario.lengths[number].actual
        self.core.finished(number, job.tokens)
        self.free(job, "ended")

    def cancel(self, number: int) -> None:
        job = self.jobs[number]
        self.cancels -= 1
        assert self.core.cancel(number) == job.engine
        self.free(job, "ended")

    def output(self, number: int) -> None:
        self.jobs[number].tokens = 1
        self.core.progress(number, 1)

    def join(self, engine: str) -> None:
        self.core.join(engine, ROOM)
        self.here[engine] = 0

    def leave(self, engine: str) -> None:
        self.departures -= 1
        del self.here[engine]
        departure = self.core.leave(engine)
        for job in departure.lost:
            self.jobs[job.job_id].state = "ended"
        for job in departure.requeued:
            back = self.jobs[job.job_id] = History(ahead=self.open_before(job.job_id))
            for other in self.jobs.values():
                other.overtakers.discard(job.job_id)
            assert back.tokens == 0

    def free(self, job: History, state: str) -> None:
        job.state = state
        if job.engine is not None:
            self.core.credit(job.engine, ROOM, self.here[job.engine])
        job.engine = None

    def open_before(self, number: int) -> set[int]:
        return {n for n, job in self.jobs.items() if n < number and job.state != "ended"}

    def check_order(self, chosen: int) -> None:
        """Ties go by arrival."""
        waiting = [number for number, job in self.jobs.items() if job.state == "waits"]
        if self.scenario.policy == "fcfs":
            assert chosen == min(waiting)
        if self.scenario.policy == "ssjf":
            order = [(self.scenario.lengths[number].predicted, number) for number in waiting]
            assert chosen == min(order)[1]

    def check(self) -> None:
        """Nothing is lost, nothing is there twice."""
        self.core.check()
        waiting = sorted(job.job_id for job in self.core.waiting())
        running = sorted((job.job_id, engine) for job, engine in self.core.running())
        jobs = self.jobs.items()
        assert waiting == [number for number, job in sorted(jobs) if job.state == "waits"]
        assert running == [(n, job.engine) for n, job in sorted(jobs) if job.state == "runs"]

    def check_bound(self) -> None:
        """At the end every length is known: the theorem, word for word."""
        assert self.core.bound_violations == 0
        assert self.core.waiting_count == self.core.running_count == 0
        if self.scenario.policy in ("fcfs", "ssjf"):
            return
        for job in self.jobs.values():
            ahead = sum(self.jobs[number].tokens for number in job.ahead)
            overtaken = sum(self.jobs[number].tokens for number in job.overtakers)
            assert overtaken <= (self.scenario.alpha - 1) * ahead + self.scenario.longest


def made(name: str, options: PolicyOptions) -> Policy:
    """The policy of that name, `lifo` included."""
    return BoundedLifo(options) if name == "lifo" else policy.create(name, options)


def explore(scenario: Scenario) -> int:
    """Walks every path; returns how many states it checked."""
    states = 0
    path: list[tuple[list[Event], int]] = []
    while True:
        world = World(scenario)
        for events, chosen in path:
            world.apply(events[chosen])
        if path:
            world.check()
            states += 1
        while events := world.events():
            path.append((events, 0))
            world.apply(events[0])
            world.check()
            states += 1
        world.check_bound()
        while path and path[-1][1] + 1 == len(path[-1][0]):
            path.pop()
        if not path:
            return states
        path[-1] = (path[-1][0], path[-1][1] + 1)


SHORT, SAME, LONG, LIAR = Length(1, 1, 2), Length(1, 2, 2), Length(8, 4, 4), Length(2, 4, 4)
POLICIES = ("bounded-ssjf", "tail-ssjf", "lifo", "ssjf", "fcfs")


def small() -> Iterator[Scenario]:
    """Seconds."""
    for name in POLICIES:
        yield Scenario(name, (LONG, SHORT, SAME))
    yield Scenario("lifo", (LONG, LIAR), cancels=1, departures=1)


def whole() -> Iterator[Scenario]:
    """Minutes; more than a million states."""
    yield from small()
    for name in ("bounded-ssjf", "tail-ssjf", "lifo"):
        for lengths in permutations((LONG, SHORT, SAME, LIAR)):
            yield Scenario(name, lengths)
        for lengths in permutations((LONG, SHORT, LIAR)):
            yield Scenario(name, lengths, cancels=1)
    for name in ("bounded-ssjf", "lifo"):
        yield Scenario(name, (LONG, LIAR, SHORT), departures=1)
    for name in ("ssjf", "fcfs"):
        yield Scenario(name, (LONG, SHORT, SAME, LIAR))


def main() -> None:
    """Explores it all and says how much it was."""
    begun, states = time.monotonic(), 0
    for scenario in whole():
        states += explore(scenario)
        sys.stdout.write(f"\r{states:,} states")
        sys.stdout.flush()
    sys.stdout.write(f"\r{states:,} states in {time.monotonic() - begun:.0f} s: all is well\n")


if __name__ == "__main__":
    main()
