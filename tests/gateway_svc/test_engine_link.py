from __future__ import annotations

import asyncio
from typing import Any

import pytest

from gateway_svc import engine_link
from ssjf.engine.v1 import engine_pb2


class PendingRead:
    """A stream on which one message is about to come."""

    def __init__(self) -> None:
        self.message: asyncio.Future[engine_pb2.ServeResponse] = asyncio.Future()

    async def read(self) -> Any:
        return await self.message


async def test_a_cancellation_that_meets_a_message_is_not_lost() -> None:
    call: Any = PendingRead()
    reading = asyncio.create_task(engine_link._read_one(call))
    await asyncio.sleep(0)
    call.message.set_result(engine_pb2.ServeResponse())
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading


async def test_an_engine_that_ends_its_stream_is_gone() -> None:
    call: Any = PendingRead()
    call.message.set_result(None)  # what grpc gives for bytes that are no message
    with pytest.raises(ConnectionError, match="ended the stream"):
        await engine_link._read_one(call)
