"""Ends a request whose client has stopped reading.

A write that takes too long is noticed by a timer that looks now and then, so that a
write itself costs two assignments. Knows no request; called by the service around
everything that it writes.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ssjf.wire import errors

if TYPE_CHECKING:
    from ssjf.wire.interceptors import Context


@dataclass(slots=True)
class Writer:
    """Writes to one client; `since_s` tells since when a write is under way."""

    context: Context
    clock: Callable[[], float]
    since_s: float | None = None
    timer: asyncio.TimerHandle | None = None

    async def write(self, message: Any) -> None:
        """Sends a message."""
        self.since_s = self.clock()
        await self.context.write(message)
        self.since_s = None


@asynccontextmanager
async def guarded_writer(context: Context, timeout_s: float) -> AsyncIterator[Writer]:
    """A writer; raises SlowConsumer where one of its writes takes over `timeout_s` seconds.

    It may take a quarter more until that is noticed.
    """
    loop = asyncio.get_running_loop()
    writer = Writer(context, loop.time)

    def look() -> None:
        if writer.since_s is not None and loop.time() - writer.since_s >= timeout_s:
            limit.reschedule(loop.time())
        else:
            writer.timer = loop.call_later(timeout_s / 4, look)

    try:
        async with asyncio.timeout(None) as limit:
            look()
            try:
                yield writer
            finally:
                if writer.timer is not None:
                    writer.timer.cancel()
    except TimeoutError as stalled:
        if not limit.expired():
            raise
        raise errors.SlowConsumer(f"nothing was read for {timeout_s:g} s") from stalled
