from __future__ import annotations

from dataclasses import replace

from ssjf_bench import live_work
from ssjf_bench.arrivals import Renewal
from ssjf_bench.lengths import Answered
from ssjf_bench.live_plan import Engine
from ssjf_bench.sim_run import Traffic
from tests.ssjf_bench.test_live_plan import PLAN

TURNS = (("user", "Hello"), ("assistant", "Hi"))
ROWS = [Answered(f"p{n}", f"say {n}", TURNS, "llm", n, "set") for n in range(1, 41)]
TRAFFIC = Traffic(Renewal(), ROWS, jobs=30)


def test_requests_are_those_of_a_simulation_but_for_their_sampling() -> None:
    work = live_work.work_of(PLAN, TRAFFIC)
    simulated = TRAFFIC.requests(TRAFFIC.answered())
    assert {request.temperature for request in work.requests} == {0.7}
    assert tuple(replace(each, temperature=0.0) for each in work.requests) == simulated
    assert {(each.turns, each.llm, each.source) for each in work.requests} == {
        (TURNS, "llm", "set")
    }


def test_a_warm_up_fills_the_largest_batch_with_requests_of_its_own() -> None:
    work = live_work.work_of(replace(PLAN, batches=(4, 16)), TRAFFIC)
    assert [each.request_id for each in work.warm_up] == [f"warm-up-{n}" for n in range(16)]
    assert {each.max_tokens for each in work.warm_up} == {work.max_tokens}
    assert all(each.output_tokens in range(1, work.max_tokens + 1) for each in work.warm_up)
    assert work.size(PLAN, Engine("continuous", 4)) == 34


def test_no_warm_up_can_be_asked_for() -> None:
    assert live_work.work_of(replace(PLAN, warm_up=0), TRAFFIC).warm_up == ()


def test_real_text_has_no_lengths_and_keeps_its_seeds() -> None:
    forced = live_work.work_of(PLAN, TRAFFIC)
    real = live_work.work_of(replace(PLAN, real_text=True, max_tokens=64), TRAFFIC)
    assert {each.output_tokens for each in (*real.requests, *real.warm_up)} == {None}
    assert [each.seed for each in real.requests] == [each.seed for each in forced.requests]


def test_lengths_that_are_held_are_those_of_the_recording() -> None:
    real = live_work.work_of(replace(PLAN, real_text=True, max_tokens=64), TRAFFIC)
    recorded = {each.request_id: 7 + number for number, each in enumerate(real.requests)}
    held = live_work.held(real, recorded)
    assert [each.output_tokens for each in held.requests] == list(range(7, 37))
    assert [each.seed for each in held.requests] == [each.seed for each in real.requests]
    assert held.warm_up == real.warm_up


def test_a_queue_holds_every_burst() -> None:
    assert live_work.work_of(PLAN, TRAFFIC).most_queued == 1024
    large = live_work.work_of(replace(PLAN, batches=(256,)), TRAFFIC)
    assert large.most_queued >= 6 * 256 + 256
