"""The paper's starvation rule as a policy of the live scheduling core."""

from __future__ import annotations

from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job
from ssjf_bench.as_published_policy import SsjfUnlessStarving

ENGINE = "one"
KV_TOKENS = 10**6


def core_of(jobs: list[tuple[float, float]], places: int, service_s: float) -> SchedulingCore:
    """Jobs of (arrival, predicted tokens), each of which is said to take `service_s`."""
    policy = SsjfUnlessStarving(lambda _: service_s)
    core = SchedulingCore(policy, batching=Batching(Mode.CONTINUOUS, places))
    core.join(ENGINE, Room(places, KV_TOKENS))
    for number, (arrival_s, tokens) in enumerate(jobs):
        core.submit(Job(number, str(number), arrival_s, 1, 1000, tokens))
    return core


def started(core: SchedulingCore, now_s: float) -> list[int]:
    batch = core.next_batch(ENGINE, now_s)
    return [job.job_id for job in batch.jobs] if batch else []


def test_the_shortest_goes_first_while_nobody_starves() -> None:
    assert started(core_of([(0, 9), (1, 3), (2, 5)], 3, service_s=1), now_s=10) == [1, 2, 0]


def test_a_whole_batch_goes_by_waiting_time_once_the_oldest_starves() -> None:
    assert started(core_of([(0, 9), (1, 3), (2, 5)], 2, service_s=1), now_s=10.5) == [0, 1]


def test_a_hundred_seconds_are_starving_whatever_the_service() -> None:
    assert started(core_of([(0, 9), (1, 3)], 1, service_s=50), now_s=100) == [1]
    assert started(core_of([(0, 9), (1, 3)], 1, service_s=50), now_s=100.5) == [0]


def test_the_next_decision_looks_anew() -> None:
    core = core_of([(0, 9), (5, 8), (6, 3)], 1, service_s=1)
    assert started(core, now_s=10.5) == [0]
    core.finished(0, 1)
    core.credit(ENGINE, Room(1, KV_TOKENS), 1)
    assert started(core, now_s=12) == [2]


def test_a_cancelled_job_does_not_come_up() -> None:
    core = core_of([(0, 9), (1, 3)], 2, service_s=1)
    core.cancel(1)
    assert [job.job_id for job in core.waiting(1.0)] == [0]
    assert started(core, now_s=2) == [0]
    core.check()
