from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator

import pytest

from ssjf_bench import live_run, workload
from ssjf_bench.live_plan import Choice, Engine, PlannedRun
from ssjf_bench.live_run import Target
from ssjf_bench.workload import Request, Workload
from tests.ssjf_bench.fake_gateway import fake_gateway

PLANNED = PlannedRun(Engine("continuous", 2), 0.9, Choice("ssjf", {}), 1)
WARM_UP = (Request("warm-up-0", "hello", 8, 0.0, 1),)
REQUESTS = (
    Request("0", "a b c", 8, 0.0, 1, llm="m", output_tokens=3, prompt_id="p", source="s"),
    Request("1", "fail now", 8, 0.0, 2),
)
LOAD = Workload(REQUESTS, (0.0, 0.02))


@pytest.fixture
def address() -> Iterator[str]:
    """A gateway in a thread: the run under test has a loop of its own."""
    ready, over = threading.Event(), threading.Event()
    found: list[str] = []

    async def serve() -> None:
        async with fake_gateway() as (_, address):
            found.append(address)
            ready.set()
            await asyncio.to_thread(over.wait)

    thread = threading.Thread(target=asyncio.run, args=(serve(),))
    thread.start()
    ready.wait(10)
    yield found[0]
    over.set()
    thread.join()


def seen(target: Target) -> live_run.Seen:
    return live_run.run(target, workload.burst(WARM_UP), LOAD, delta_interval_ms=0)


def test_the_warm_up_is_over_before_the_window_begins(address: str) -> None:
    rows = live_run.rows(PLANNED, seen(Target(address)))
    assert [(row.request_id, row.measured) for row in rows] == [
        ("warm-up-0", False),
        ("0", True),
        ("1", True),
    ]
    assert rows[0].end_s is not None
    assert rows[0].arrival_s <= rows[0].end_s <= 0.0
    assert [row.arrival_s for row in rows[1:]] == [0.0, 0.02]


def test_a_row_says_what_was_sent_and_what_came(address: str) -> None:
    row, failed = live_run.rows(PLANNED, seen(Target(address)))[1:]
    assert (row.run, row.policy, row.repeat) == ("continuous-2-0.9-ssjf-1", "ssjf", 1)
    assert (row.prompt_id, row.category, row.llm) == ("p", "s", "m")
    assert (row.forced_tokens, row.output_tokens) == (3, 3)
    assert (row.predicted_tokens, row.predicted_by_model) == (4, True)
    times_s = [row.sent_s, row.queued_s, row.started_s, row.first_token_s, row.end_s]
    assert None not in times_s
    assert times_s == sorted(times_s, key=lambda time_s: time_s or 0.0)
    assert (failed.ok, failed.outcome, failed.first_token_s) == (False, "RESOURCE_EXHAUSTED", None)


def test_processor_time_is_counted_for_each_service_and_the_generator(address: str) -> None:
    found = seen(Target(address, {"engine": os.getpid()}))
    assert found.cpu_s.keys() == {"engine", "generator"}
    assert found.generator_cores > 0
    assert found.tick_lag_s


def test_a_run_ends_with_a_service_and_keeps_what_it_has(address: str) -> None:
    long = Workload(REQUESTS, (0.0, 3600.0))
    found = live_run.run(
        Target(address, broken=lambda: "engine: ended by SIGKILL"),
        workload.burst(()),
        long,
        delta_interval_ms=0,
    )
    assert found.broken == "engine: ended by SIGKILL"
    assert [record.outcome for record in found.measured] == ["UNFINISHED", "UNFINISHED"]
    assert found.elapsed_s < 60


def test_a_service_that_has_ended_is_noticed_during_the_window(address: str) -> None:
    answers = iter(["", ""])
    long = Workload(REQUESTS, (0.0, 3600.0))
    found = live_run.run(
        Target(address, broken=lambda: next(answers, "gateway: ended")),
        workload.burst(()),
        long,
        delta_interval_ms=0,
    )
    assert found.broken == "gateway: ended"
    assert [record.outcome for record in found.measured] == ["OK", "UNFINISHED"]
