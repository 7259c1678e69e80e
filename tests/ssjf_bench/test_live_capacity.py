from __future__ import annotations

import pytest

from ssjf_bench import live_capacity
from ssjf_bench.live_capacity import CapacityError
from ssjf_bench.live_plan import Engine
from ssjf_bench.workload import Request
from tests.ssjf_bench.records import failed, finished

LENGTHS = {str(number): 1 + number % 100 for number in range(1000)}
REQUESTS = tuple(
    Request(name, "say", 100, 0.0, 1, output_tokens=tokens) for name, tokens in LENGTHS.items()
)
CONTINUOUS, DYNAMIC = Engine("continuous", 16), Engine("dynamic", 2)


def test_a_burst_is_whole_batches_as_long_as_the_whole_workload() -> None:
    taken = live_capacity.burst(REQUESTS, CONTINUOUS, 1, LENGTHS)
    tokens = [each.output_tokens or 0 for each in taken]
    assert len(taken) == 96
    assert sum(tokens) / len(tokens) == pytest.approx(50.5, rel=0.01)
    assert tokens != sorted(tokens)
    assert len({each.request_id for each in taken}) == 96


def test_small_batches_are_measured_with_enough_requests() -> None:
    assert len(live_capacity.burst(REQUESTS, Engine("none", 1), 1, LENGTHS)) == 24
    assert len(live_capacity.burst(REQUESTS[:5], Engine("dynamic", 7), 1, LENGTHS)) == 42


def test_continuous_batching_is_measured_while_the_engine_is_full() -> None:
    # Two places, a token a step of 1 s; the last starts at 4 s and holds the engine alone.
    records = [
        finished("a", started_s=0.0, tokens_s=(1, 2, 3, 4)),
        finished("b", started_s=0.0, tokens_s=(1, 2)),
        finished("c", started_s=2.0, tokens_s=(3, 4)),
        finished("d", started_s=4.0, tokens_s=tuple(range(5, 13))),
    ]
    # 8 tokens in 4 s, at 4 tokens an answer.
    assert live_capacity.requests_per_s(records, CONTINUOUS, 4.0) == pytest.approx(0.5)


def test_other_modes_are_measured_in_whole_batches() -> None:
    records = [
        finished("a", started_s=1.0, tokens_s=(2.0,)),
        finished("b", started_s=1.0, tokens_s=(5.0,)),
        finished("c", started_s=5.0, tokens_s=(6.0,)),
        finished("d", started_s=5.0, tokens_s=(9.0,)),
    ]
    assert live_capacity.requests_per_s(records, DYNAMIC, 1.0) == pytest.approx(4 / 8)


def test_a_failed_request_makes_no_capacity() -> None:
    with pytest.raises(CapacityError, match="1 of 2 requests failed: UNAVAILABLE NO_ENGINE none"):
        live_capacity.requests_per_s([finished("a"), failed("b")], CONTINUOUS, 1.0)


def test_an_engine_that_takes_everything_at_once_has_no_capacity() -> None:
    records = [finished("a", started_s=1.0), finished("b", started_s=1.0)]
    with pytest.raises(CapacityError, match="not bounded"):
        live_capacity.requests_per_s(records, CONTINUOUS, 1.0)
