from __future__ import annotations

from dataclasses import replace

import pytest

from gateway_svc.scheduling.batching import Mode
from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.tally import Tally
from gateway_svc.waits import HISTORY, Supply, Waited, WaitHistory, WaitReason, reasons

PLENTY = Supply(
    engines=1,
    free_sequences=0,
    running=4,
    max_running=100,
    tenant_max_running={},
    mode=Mode.CONTINUOUS,
)
STANDARD, URGENT, BATCH = Priority.STANDARD, Priority.URGENT, Priority.BATCH


def tally(**waiting: int) -> Tally:
    """So many waiting jobs of each `class_tenant`."""
    made = Tally()
    for name, count in waiting.items():
        priority, tenant = name.split("_")
        job = Job(1, "r", 0.0, 3, 9, 5.0, priority=Priority[priority.upper()], tenant=tenant)
        for _ in range(count):
            made.waits(job)
    return made


def test_without_an_engine_everything_waits_for_one() -> None:
    found = reasons(tally(standard_a=2, batch_b=1), replace(PLENTY, engines=0), None)
    assert found == {(STANDARD, WaitReason.NO_ENGINE): 2, (BATCH, WaitReason.NO_ENGINE): 1}


def test_one_is_next_and_the_others_are_behind_it() -> None:
    waiting = tally(urgent_a=3, urgent_b=2, standard_a=4)
    assert reasons(waiting, PLENTY, (URGENT, "a")) == {
        (URGENT, WaitReason.PLACE): 1,
        (URGENT, WaitReason.ORDER): 2,
        (URGENT, WaitReason.TENANT_SHARE): 2,
        (STANDARD, WaitReason.CLASS): 4,
    }


@pytest.mark.parametrize(
    ("supply", "reason"),
    [
        (PLENTY, WaitReason.PLACE),
        (replace(PLENTY, free_sequences=1), WaitReason.KV),
        (replace(PLENTY, free_sequences=1, mode=Mode.DYNAMIC), WaitReason.COMPANY),
    ],
)
def test_the_next_one_waits_for_what_is_short(supply: Supply, reason: WaitReason) -> None:
    assert reasons(tally(standard_a=1), supply, (STANDARD, "a")) == {(STANDARD, reason): 1}


def test_limits_come_before_order() -> None:
    waiting = tally(standard_a=2, standard_b=1)
    waiting.runs(Job(1, "r", 0.0, 3, 9, 5.0, tenant="a"))
    supply = replace(PLENTY, tenant_max_running={"a": 1})
    assert reasons(waiting, supply, (STANDARD, "b")) == {
        (STANDARD, WaitReason.TENANT_LIMIT): 2,
        (STANDARD, WaitReason.PLACE): 1,
    }
    full = replace(PLENTY, max_running=4)
    assert reasons(waiting, full, None) == {(STANDARD, WaitReason.GLOBAL_LIMIT): 3}


def test_every_waiting_request_is_counted_once() -> None:
    waiting = tally(urgent_a=3, urgent_b=2, standard_a=4, batch_c=7)
    for next_up in ((URGENT, "a"), (STANDARD, "a"), (BATCH, "c"), None):
        assert sum(reasons(waiting, PLENTY, next_up).values()) == 16


def test_waits_are_kept_by_length() -> None:
    history = WaitHistory()
    for number in range(1, 11):
        history.add(Waited(float(number), 20.0, 31))
    history.add(Waited(4.0, 20.0, 32))
    history.add(Waited(5.0, 2000.0, 5000))
    short, middle, long = history.buckets()
    assert (short.from_tokens, short.below_tokens, short.count) == (0, 32, 10)
    assert (short.mean_wait_s, short.p90_wait_s) == (5.5, 9.0)
    assert (middle.from_tokens, middle.below_tokens) == (32, 64)
    assert (long.from_tokens, long.below_tokens, long.mean_predicted_tokens) == (1024, 0, 2000.0)


def test_only_the_latest_are_kept() -> None:
    history = WaitHistory()
    for number in range(HISTORY + 10):
        history.add(Waited(float(number), 1.0, 1))
    (bucket,) = history.buckets()
    assert bucket.count == HISTORY
    assert bucket.mean_wait_s == pytest.approx(10 + (HISTORY - 1) / 2)
