from __future__ import annotations

import asyncio
import threading

import pytest

from engine_svc import mailbox as module
from engine_svc.mailbox import Mailbox, Outbox, ReportsOverflow
from engine_svc.messages import Cancel, Drain, Report, Stop


def test_commands_are_taken_in_the_order_of_posting() -> None:
    mailbox = Mailbox()
    mailbox.post(Drain())
    mailbox.post(Cancel((1,)))
    assert mailbox.take(wait=False) == [Drain(), Cancel((1,))]
    assert mailbox.take(wait=False) == []


def test_waiting_lasts_until_a_command_comes() -> None:
    mailbox = Mailbox()
    threading.Timer(0.05, mailbox.post, [Stop()]).start()
    assert mailbox.take(wait=True) == [Stop()]


async def test_reports_cross_from_a_thread_in_order() -> None:
    outbox = Outbox()
    for step in range(3):
        await asyncio.to_thread(outbox.put, Report(step=step))
    assert [report.step for report in await outbox.get()] == [0, 1, 2]


async def test_a_report_is_not_kept_back_for_the_next() -> None:
    outbox = Outbox()
    for step in range(3):
        outbox.put(Report(step=step))
        assert [report.step for report in await outbox.get()] == [step]


async def test_what_is_taken_at_once_has_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_ROWS_AT_ONCE", 4)
    outbox = Outbox()
    for step in range(5):
        outbox.put(Report(step=step, sequence_ids=(1, 2)))
    await asyncio.sleep(0)
    assert [[report.step for report in await outbox.get()] for _ in range(3)] == [
        [0, 1],
        [2, 3],
        [4],
    ]


async def test_a_reader_that_fell_far_behind_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_WAITING_REPORTS", 2)
    outbox = Outbox()
    for step in range(3):
        outbox.put(Report(step=step))
    await asyncio.sleep(0)
    with pytest.raises(ReportsOverflow, match="3 reports wait"):
        await outbox.get()


def test_a_report_after_the_loop_has_ended_is_dropped() -> None:
    async def make() -> Outbox:
        return Outbox()

    asyncio.run(make()).put(Report())
