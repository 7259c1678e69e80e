"""One open `Serve` stream: reads the gateway's messages, sends the engine's.

It holds the stream's side of the grammar and the signs of life; `answers` makes the
text, what is inside the engine is the loop's. Made by `service`, one at a time.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator, Coroutine
from typing import TYPE_CHECKING, Any, Final

from engine_svc import metrics, translate
from engine_svc.answers import Answered, Answers
from engine_svc.batching_mode import BatchingMode
from engine_svc.mailbox import Commands, Outbox, ReportsOverflow
from engine_svc.messages import Attach, Cancel, Detach, Drain, Report
from engine_svc.token_texts import TokenTexts
from engine_svc.translate import Bounds
from ssjf.engine.v1 import engine_pb2
from ssjf.wire import logs
from ssjf.wire.errors import InvalidRequest, Violation

if TYPE_CHECKING:
    from ssjf.wire.interceptors import Context

HEARTBEAT_INTERVAL_S: Final = 1.0
SILENCE_LIMIT_S: Final = 3.0
"""Silence after which the gateway counts as gone."""

PART_TOKENS: Final = 16_384
"""Prompt tokens of a batch that are handed to the loop together, more than it reads in a step:
it begins with these while the rest of a large batch is still being translated."""

Requests = AsyncIterator[engine_pb2.ServeRequest]


class Stream:
    """A stream whose hello has been accepted; `run` lasts as long as it does."""

    def __init__(
        self,
        requests: Requests,
        context: Context,
        *,
        commands: Commands,
        bounds: Bounds,
        texts: TokenTexts,
    ) -> None:
        self._requests = requests
        self._context = context
        self._commands = commands
        self._bounds = bounds
        self._answers = Answers(texts, time.monotonic)
        self._outbox = Outbox()
        self._writing = asyncio.Lock()
        self._batch_id = 0
        self._part_tokens = PART_TOKENS
        self._draining = False
        self._heard_s = time.monotonic()

    async def run(self, welcome: engine_pb2.Welcome, mode: BatchingMode) -> None:
        """Serves until either side ends the stream or falls silent; then frees everything.

        Raises InvalidRequest where the gateway breaks the grammar.
        """
        if mode is not BatchingMode.CONTINUOUS:
            self._part_tokens = sys.maxsize  # a batch that runs together arrives together
        await self._write(engine_pb2.ServeResponse(welcome=welcome))
        self._commands.post(Attach(self._outbox.put, mode))
        try:
            await _first_of(self._read(), self._send(), self._beat(), self._listen_for_silence())
        finally:
            self._commands.post(Detach())
            metrics.observe_cancelled(len(self._answers.live))
            metrics.observe_detached(welcome.limits.kv_tokens)

    async def _read(self) -> None:
        async for message in self._requests:
            self._heard_s = time.monotonic()
            await self._obey(message)

    async def _obey(self, message: engine_pb2.ServeRequest) -> None:
        match message.WhichOneof("message"):
            case "batch":
                await self._start(message.batch)
            case "cancel":
                self._cancel(tuple(message.cancel.sequence_ids))
            case "drain":
                self._draining = True
                self._commands.post(Drain())
            case "heartbeat":
                pass
            case "hello":
                raise _broken("message", "hello comes first and only first")
            case _:
                raise _broken("message", "must be set")

    async def _start(self, batch: engine_pb2.ScheduledBatch) -> None:
        ids = {sequence.sequence_id for sequence in batch.sequences}
        if self._draining:
            raise _broken("batch", "nothing comes after drain but cancel and heartbeat")
        if batch.batch_id <= self._batch_id:
            raise _broken("batch.batch_id", f"is {batch.batch_id} after {self._batch_id}")
        if len(ids) != len(batch.sequences) or not ids.isdisjoint(self._answers.live):
            raise _broken("batch.sequences.sequence_id", "is used twice")
        after, self._batch_id = self._batch_id, batch.batch_id
        for part in translate.starts(
            batch, self._bounds, after=after, part_tokens=self._part_tokens
        ):
            self._answers.start(part)
            self._commands.post(part)
            await asyncio.sleep(0)  # the streams that run are not held up by a large batch

    def _cancel(self, sequence_ids: tuple[int, ...]) -> None:
        metrics.observe_cancelled(self._answers.forget(sequence_ids))
        self._commands.post(Cancel(sequence_ids))

    async def _send(self) -> None:
        while True:
            try:
                reports = await self._outbox.get()
            except ReportsOverflow as error:
                logs.get_logger().warning("gateway stopped reading", reason=str(error))
                return
            for message in translate.responses(map(self._answer, reports)):
                await self._write(message)
            if reports[-1].drained:
                return

    def _answer(self, report: Report) -> Answered:
        answered = self._answers.read(report)
        if answered.stopped:
            self._commands.post(Cancel(answered.stopped))
        metrics.observe(answered.report)
        return answered

    async def _beat(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(HEARTBEAT_INTERVAL_S)
            count += 1
            await self._write(engine_pb2.ServeResponse(heartbeat=engine_pb2.Heartbeat(count=count)))

    async def _listen_for_silence(self) -> None:
        # No event to wait for: each message heard moves the end of the wait.
        while (left_s := self._heard_s + SILENCE_LIMIT_S - time.monotonic()) > 0:  # noqa: ASYNC110
            await asyncio.sleep(left_s)
        logs.get_logger().warning("gateway is silent", silence_s=SILENCE_LIMIT_S)

    async def _write(self, message: engine_pb2.ServeResponse) -> None:
        # Two tasks write; grpc.aio takes one message at a time.
        async with self._writing:
            await self._context.write(message)


def _broken(field: str, description: str) -> InvalidRequest:
    return InvalidRequest([Violation(field, description)])


async def _first_of(*coroutines: Coroutine[Any, Any, None]) -> None:
    """Runs them together until one ends, cancels the rest, and raises what it raised."""
    tasks = [asyncio.ensure_future(coroutine) for coroutine in coroutines]
    try:
        done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
    for task in done:
        task.result()
