"""The scheduling core written down again, slow and obvious: lists, sums and no shortcut.

Every budget is summed up from the history of starts and ends, every order is sorted when it
is asked for. Exact only where all quantities are multiples of a power of two.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.quota import Limits, Tenant

PREFILL = 0.125
"""Work of one prompt token, in output tokens."""


@dataclass(eq=False)
class Known:
    """A job, as the lists know it."""

    job: Job
    number: int
    lane: LaneBook
    due: float = 0.0
    engine: str | None = None
    output_tokens: int = 0
    passes: int = 0
    parked: bool = False
    overtakers: list[Known] = field(default_factory=list)
    """Later arrivals of its lane, started while it waits (or running when it came back)."""
    ahead_tokens: int = 0
    """Tokens of earlier arrivals of its lane that ended while it waits."""
    ended: bool = False

    @property
    def work(self) -> float:
        prompt = self.job.prompt_tokens - self.job.cached_prompt_tokens
        return PREFILL * prompt + self.job.expected_output_tokens


@dataclass(eq=False)
class LaneBook:
    """What one tenant has in one class."""

    tenant: Tenant
    priority: int
    served: float = 0.0
    started: float = 0.0
    awake: bool = False


@dataclass
class EngineBook:
    """What one engine said last, and what it has been sent since."""

    room: Room
    largest: int
    seen: int = 0
    sent: list[list[Job]] = field(default_factory=list)

    def left(self) -> Room:
        jobs = [job for batch in self.sent[self.seen :] for job in batch]
        places = self.room.sequences - len(jobs)
        tokens = self.room.kv_tokens - sum(job.kv_tokens for job in jobs)
        assert places >= 0, "credits are negative"
        assert tokens >= 0, "credits are negative"
        return Room(places, tokens)


class Reference:
    """The queue, the running jobs and the engines."""

    def __init__(
        self, policy: str, alpha: float, limits: Limits, batching: Batching, tenants: list[Tenant]
    ) -> None:
        self.policy, self.alpha = policy, alpha
        self.limits, self.batching = limits, batching
        self.tenants = {tenant.name: tenant for tenant in tenants}
        self.slack = batching.places * limits.longest_answer_tokens
        self.lanes: dict[tuple[str, int], LaneBook] = {}
        self.jobs: dict[int, Known] = {}
        self.engines: dict[str, EngineBook] = {}
        self.owed = [0.0, 0.0, 0.0]
        self.slept = [0.0, 0.0, 0.0]
        self.numbers = 0

    # What happens ------------------------------------------------------------

    def refuses(self, job: Job) -> tuple[str, str | None] | None:
        """The limit that a new job would break, and whose it is."""
        tenant = self.tenants.get(job.tenant, Tenant(job.tenant))
        tokens = job.prompt_tokens + job.max_tokens
        for limits, whose in ((self.limits, None), (tenant, job.tenant)):
            jobs = [k for k in self.waiting() if whose is None or k.job.tenant == whose]
            if len(jobs) >= limits.max_queued:
                return "queued_requests", whose
            held = sum(known.job.prompt_tokens + known.job.max_tokens for known in jobs)
            if held + tokens > limits.max_queued_tokens:
                return "queued_tokens", whose
        return None

    def submit(self, job: Job) -> None:
        self.numbers += 1
        place = (job.tenant, int(job.priority))
        tenant = self.tenants.get(job.tenant, Tenant(job.tenant))
        lane = self.lanes.setdefault(place, LaneBook(tenant, place[1]))
        known = Known(job, self.numbers, lane)
        ahead = sum(each.work for each in self.in_line(lane))
        running = sum(each.work for each in self.running() if each.lane is lane)
        known.due = lane.started + ahead + (self.alpha - 1) * (ahead + running)
        self.jobs[job.job_id] = known
        self.wake(known)
        self.park()

    def reprice(self, job_id: int, predicted: float) -> bool:
        known = self.jobs.get(job_id)
        if known is None or known.engine is not None:
            return False
        known.job = replace(known.job, predicted_tokens=predicted)
        return True

    def end(self, job_id: int, output_tokens: int | None = None) -> None:
        """Finished, cancelled or dropped; None: after what was seen of it."""
        known = self.jobs.pop(job_id)
        if known.engine is not None:
            if output_tokens is not None:
                known.output_tokens = output_tokens
            self.settle(known, PREFILL * self.uncached(known) + known.output_tokens)
        else:
            self.doze(known.lane)

    def leave(self, engine: str) -> tuple[list[Job], list[Job]]:
        del self.engines[engine]
        gone = [known for known in self.running() if known.engine == engine]
        back = [known for known in gone if not known.output_tokens]
        lost = [known for known in gone if known.output_tokens]
        for known in gone:
            if known in lost:
                self.end(known.job.job_id)
            else:
                known.lane.started -= known.work
                self.settle(known, 0.0)
                known.engine = None
        for known in back:
            known.ahead_tokens = 0
            known.overtakers = [
                each
                for each in self.running()
                if each.lane is known.lane and each.number > known.number
            ]
            # One that is back itself has not overtaken anyone.
            for other in self.waiting():
                other.overtakers = [each for each in other.overtakers if each is not known]
            self.wake(known)
        self.park()
        return [known.job for known in back], [known.job for known in lost]

    def join(self, engine: str, room: Room, largest: int) -> None:
        self.engines[engine] = EngineBook(room, largest)
        self.park()

    def expired(self, now_s: float) -> list[int]:
        return [known.job.job_id for known in self.waiting() if self.expiry_s(known) <= now_s]

    def expiry_s(self, known: Known) -> float:
        return min(known.job.deadline_s, known.job.arrival_s + self.limits.queue_timeout_s)

    def next_batch(self, engine: str, now_s: float) -> list[int]:
        """What must start now."""
        book = self.engines[engine]
        room, places = book.left(), self.places(engine, now_s)
        chosen: list[Known] = []
        aside: list[Known] = []
        closed: list[LaneBook] = []
        passed: list[Known] = []
        while len(chosen) < places:
            lane = self.next_lane(closed)
            if lane is None or any(k.passes >= self.limits.max_passes for k in passed):
                break
            known = self.next_job(lane, room, book.largest, aside, passed, chosen)
            if known is None:
                closed.append(lane)
                continue
            room = Room(room.sequences - 1, room.kv_tokens - known.job.kv_tokens)
            chosen.append(known)
            self.start(known, engine)
            for other in passed:
                other.passes += 1
        for known in chosen:
            known.passes = 0
        if chosen:
            book.sent.append([known.job for known in chosen])
        return [known.job.job_id for known in chosen]

    # The rules ---------------------------------------------------------------

    def places(self, engine: str, now_s: float) -> int:
        running = [known for known in self.running() if known.engine == engine]
        places = min(self.batching.places - len(running), self.engines[engine].left().sequences)
        if self.batching.mode is Mode.DYNAMIC and places > 0:
            waiting = [known for known in self.waiting() if not known.parked]
            first_s = min((known.job.arrival_s for known in waiting), default=1e9)
            patient = len(waiting) < places and now_s < first_s + self.batching.max_wait_s
            if running or patient:
                return 0
        return min(places, self.limits.max_running - len(self.running()))

    def next_lane(self, closed: list[LaneBook]) -> LaneBook | None:
        chosen: LaneBook | None = None
        for priority in range(3):
            awake = [lane for lane in self.lanes.values() if lane.awake]
            awake = [lane for lane in awake if lane.priority == priority]
            share = self.limits.class_shares[priority]
            turn = self.owed[priority] >= 0 and share > 0
            candidates = [lane for lane in awake if lane not in closed]
            if candidates and (chosen is None or turn):
                chosen = min(candidates, key=lambda lane: lane.served)
        return chosen

    def next_job(
        self,
        lane: LaneBook,
        room: Room,
        largest: int,
        aside: list[Known],
        passed: list[Known],
        chosen: list[Known],
    ) -> Known | None:
        running = [known for known in self.running() if known.lane.tenant == lane.tenant]
        if len(running) >= lane.tenant.max_running:
            return None
        for known in self.company(lane, chosen) + self.in_order(lane):
            if any(other.passes >= self.limits.max_passes for other in passed):
                return None
            if known in aside:
                continue
            if not self.fits(known, room, largest):
                self.set_aside(known, largest, aside, passed)
                continue
            first = known
            while (blocker := self.blocker(first)) is not None:
                first = blocker
            if first in aside:
                return None
            if self.fits(first, room, largest):
                return first
            self.set_aside(first, largest, aside, passed)
            return None
        return None

    def fits(self, known: Known, room: Room, largest: int) -> bool:
        return known.job.kv_tokens <= min(room.kv_tokens, largest)

    def set_aside(
        self, known: Known, largest: int, aside: list[Known], passed: list[Known]
    ) -> None:
        aside.append(known)
        if known.job.kv_tokens <= largest:
            passed.append(known)

    def in_order(self, lane: LaneBook) -> list[Known]:
        line = self.in_line(lane)
        if self.policy in ("fcfs", "lifo"):
            line.sort(key=lambda known: known.number)
            return line if self.policy == "fcfs" else line[::-1]
        by_length = sorted(line, key=lambda known: (known.work, known.number))
        if self.policy == "ssjf":
            return by_length
        due = [known for known in line if known.due <= lane.started]
        due.sort(key=lambda known: (known.due, known.number))
        return due + [known for known in by_length if known not in due]

    def company(self, lane: LaneBook, chosen: list[Known]) -> list[Known]:
        """Who rides along in a batch that lasts as long as its longest job."""
        dynamic = self.batching.mode is Mode.DYNAMIC and self.policy == "bounded-ssjf"
        if not dynamic or lane not in [known.lane for known in chosen]:
            return []
        longest = max(known.work for known in chosen)
        below = [known for known in self.in_line(lane) if known.work <= longest]
        return sorted(below, key=lambda known: (-known.work, known.number))

    def blocker(self, known: Known) -> Known | None:
        """The earliest whom it would overtake too much."""
        if self.policy in ("fcfs", "ssjf"):
            return None
        earlier = [each for each in self.in_line(known.lane) if each.number < known.number]
        for each in sorted(earlier, key=lambda each: each.number):
            if self.budget(each) < known.job.max_tokens:
                return each
        return None

    def budget(self, known: Known) -> float:
        """(alpha - 1) · W as far as it is known, plus slack, less all that may have overtaken."""
        spent = sum(
            each.output_tokens if each.ended else each.job.max_tokens for each in known.overtakers
        )
        return (self.alpha - 1) * known.ahead_tokens + self.slack - spent

    # Inside ------------------------------------------------------------------

    def waiting(self) -> list[Known]:
        return [known for known in self.jobs.values() if known.engine is None]

    def running(self) -> list[Known]:
        return [known for known in self.jobs.values() if known.engine is not None]

    def in_line(self, lane: LaneBook) -> list[Known]:
        return [known for known in self.waiting() if known.lane is lane and not known.parked]

    def uncached(self, known: Known) -> int:
        return known.job.prompt_tokens - known.job.cached_prompt_tokens

    def start(self, known: Known, engine: str) -> None:
        lane = known.lane
        known.engine = engine
        lane.started += known.work
        lane.served += known.work / lane.tenant.weight
        for other in self.in_line(lane):
            if other.number < known.number:
                other.overtakers.append(known)
        for priority in range(3):
            share = self.limits.class_shares[priority]
            if priority == lane.priority:
                self.owed[priority] = -known.work
            elif any(each.awake and each.priority == priority for each in self.lanes.values()):
                gain = share / (1 - share) * known.work
                self.owed[priority] = min(0.0, self.owed[priority] + gain)
        self.doze(lane)

    def settle(self, known: Known, spent: float) -> None:
        """What was predicted becomes what was used; `known` runs no more."""
        known.lane.served += (spent - known.work) / known.lane.tenant.weight
        known.ended = known.job.job_id not in self.jobs
        for other in self.waiting():
            if other.lane is known.lane and other.number > known.number and known.ended:
                other.ahead_tokens += known.output_tokens

    def wake(self, known: Known) -> None:
        lane = known.lane
        if lane.awake:
            return
        awake = [each for each in self.lanes.values() if each.awake]
        awake = [each for each in awake if each.priority == lane.priority]
        if not awake:
            self.owed[lane.priority] = min(self.owed[lane.priority], -known.work)
        least = min((each.served for each in awake), default=self.slept[lane.priority])
        lane.served = max(lane.served, least)
        lane.awake = True

    def doze(self, lane: LaneBook) -> None:
        if lane.awake and not self.in_line(lane):
            lane.awake = False
            self.slept[lane.priority] = lane.served

    def park(self) -> None:
        largest = max((book.largest for book in self.engines.values()), default=10**9)
        for known in self.waiting():
            if known.job.kv_tokens > largest and not known.parked:
                known.parked = True
                self.doze(known.lane)
            elif known.job.kv_tokens <= largest and known.parked:
                known.parked = False
                known.ahead_tokens = 0
                known.overtakers = [
                    each
                    for each in self.running()
                    if each.lane is known.lane and each.number > known.number
                ]
                self.wake(known)
