"""Carries commands to the engine loop and reports back to the event loop, between threads.

It knows neither gRPC nor tensors. The service posts and reads, the engine takes; the
engine never waits for the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from typing import Final, Protocol

from engine_svc.messages import Command, Report

MAX_WAITING_REPORTS: Final = 4096
MAX_ROWS_AT_ONCE: Final = 8192
"""About as many rows are sent in one message: with the log-probabilities of 20 alternatives each
that is a third of the largest message there may be."""


class Commands(Protocol):
    """Where commands for an engine loop are left."""

    def post(self, command: Command) -> None:
        """Leaves a command; from the event loop, never blocks."""


class Mailbox:
    """Commands for the engine thread, in the order in which they were posted."""

    def __init__(self) -> None:
        self._commands: queue.SimpleQueue[Command] = queue.SimpleQueue()

    def post(self, command: Command) -> None:
        """Leaves a command; any thread, never blocks."""
        self._commands.put(command)

    def take(self, *, wait: bool) -> list[Command]:
        """All commands there are; `wait` blocks until there is one."""
        commands = [self._commands.get()] if wait else []
        with contextlib.suppress(queue.Empty):
            while True:
                commands.append(self._commands.get_nowait())
        return commands


class ReportsOverflow(Exception):
    """The reader of an outbox stopped reading."""


class Outbox:
    """Reports for one stream. Created on its event loop, filled by the engine thread, or by
    that loop itself where the engine is another process."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._thread = threading.get_ident()
        self._reports: asyncio.Queue[Report] = asyncio.Queue()

    def put(self, report: Report) -> None:
        """Leaves a report; any thread, never blocks. Nothing where the loop has ended."""
        if threading.get_ident() == self._thread:
            self._reports.put_nowait(report)  # no need to wake the loop that is running
            return
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._reports.put_nowait, report)

    async def get(self) -> list[Report]:
        """The next report and what has gathered behind it, within reason.

        Raises ReportsOverflow where too many have gathered.
        """
        if self._reports.qsize() > MAX_WAITING_REPORTS:
            raise ReportsOverflow(f"{self._reports.qsize()} reports wait to be sent")
        found = [await self._reports.get()]
        rows = len(found[0].sequence_ids)
        while rows < MAX_ROWS_AT_ONCE and not self._reports.empty():
            found.append(self._reports.get_nowait())
            rows += len(found[-1].sequence_ids)
        return found
