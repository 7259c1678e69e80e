"""One engine's `Serve` stream: connects, keeps it alive, reports to the dispatcher.

A link lives as long as the gateway and reconnects for ever. Each connection is an
epoch; what an earlier one still had under way cannot reach a later one. An engine
that says nothing for three heartbeats is dead, whatever its TCP connection says.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc

from gateway_svc.dispatcher import Dispatcher
from gateway_svc.throughput import TokenRate
from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc
from ssjf.wire import channel, logs
from ssjf.wire.errors import IncompatiblePeer, decode
from ssjf.wire.schema import SCHEMA_REVISION

if TYPE_CHECKING:
    ServeCall = grpc.aio.StreamStreamCall[engine_pb2.ServeRequest, engine_pb2.ServeResponse]

HEARTBEAT_S: Final = 1.0
DEAD_AFTER_S: Final = 3 * HEARTBEAT_S
RECONNECT_S: Final = 0.25


@dataclass(frozen=True, slots=True)
class Batching:
    """How sequences are put together at every engine."""

    mode: engine_pb2.BatchingMode.ValueType = engine_pb2.BATCHING_MODE_CONTINUOUS
    max_batch: int = 256
    """Sequences that an engine may run at once, as far as it can."""


class EngineLink:
    """The connection to one engine; `accept` refuses a welcome by raising IncompatiblePeer."""

    def __init__(
        self,
        address: str,
        dispatcher: Dispatcher,
        accept: Callable[[engine_pb2.Welcome], None],
        batching: Batching,
    ) -> None:
        self.key = address
        self.name = address
        self.welcome: engine_pb2.Welcome | None = None
        self.last_capacity = engine_pb2.Capacity()
        self.rate = TokenRate()
        self.places = 0
        self._dispatcher = dispatcher
        self._accept = accept
        self._batching = batching
        self._channel = channel.connect(address)
        self._outbox: asyncio.Queue[engine_pb2.ServeRequest] = asyncio.Queue()
        self._epoch = 0
        self._complaints: set[str] = set()

    @property
    def may_start(self) -> bool:
        """False while a batch that runs to completion does so.

        The last sequence's end is known before the engine's word that all places are free: a
        batch that was made in between would be too small, and the only one for long.
        """
        dynamic = self._batching.mode == engine_pb2.BATCHING_MODE_DYNAMIC
        return not dynamic or not self.last_capacity.running_sequences

    def send_batch(self, batch: engine_pb2.ScheduledBatch) -> None:
        """Queues a batch for the engine."""
        self._outbox.put_nowait(engine_pb2.ServeRequest(batch=batch))

    def send_cancel(self, job_id: int) -> None:
        """Queues a cancellation for the engine."""
        cancel = engine_pb2.Cancel(sequence_ids=[job_id])
        self._outbox.put_nowait(engine_pb2.ServeRequest(cancel=cancel))

    async def tokenize(
        self, request: engine_pb2.TokenizeRequest, timeout_s: float
    ) -> tuple[int, ...]:
        """The prompt's token ids. Raises AioRpcError."""
        stub = engine_pb2_grpc.EngineServiceStub(self._channel)
        response = await stub.Tokenize(request, timeout=timeout_s)
        return tuple(response.token_ids)

    async def run(self) -> None:
        """Keeps the link up until cancelled."""
        try:
            while True:
                try:
                    await self._serve_once()
                except (grpc.aio.AioRpcError, ConnectionError, IncompatiblePeer) as error:
                    self._complain(error)
                except Exception:  # a bug must not take the link down for good
                    logs.get_logger().exception("engine link broke", address=self.key)
                await asyncio.sleep(RECONNECT_S)
        finally:
            await self._channel.close()

    async def _serve_once(self) -> None:
        self._epoch += 1
        self._outbox = asyncio.Queue()
        async with self._open() as call:
            welcome = await self._greet(call)
            self._accept(welcome)
            self.welcome, self.name = welcome, welcome.engine_id or self.key
            self.last_capacity = engine_pb2.Capacity()
            self.places = min(welcome.limits.max_sequences, self._batching.max_batch)
            writer = asyncio.create_task(self._write(call))
            try:
                limits = welcome.limits
                most = min(limits.max_context_tokens, limits.kv_tokens)
                self._dispatcher.engine_joined(self, most)
                logs.get_logger().info("engine joined", engine=self.name, address=self.key)
                self._complaints.clear()
                await self._read(call)
            finally:
                writer.cancel()
                self.welcome = None
                self._dispatcher.engine_left(self)
                logs.get_logger().warning("engine left", engine=self.name, address=self.key)

    @asynccontextmanager
    async def _open(self) -> AsyncIterator[ServeCall]:
        stub: engine_pb2_grpc.EngineServiceAsyncStub = engine_pb2_grpc.EngineServiceStub(
            self._channel
        )
        call = stub.Serve()
        try:
            yield call
        finally:
            call.cancel()  # a call left to the garbage collector can go on running

    async def _greet(self, call: ServeCall) -> engine_pb2.Welcome:
        hello = engine_pb2.Hello(
            gateway_id="gateway",
            schema_revision=SCHEMA_REVISION,
            epoch=self._epoch,
            batching_mode=self._batching.mode,
        )
        await call.write(engine_pb2.ServeRequest(hello=hello))
        answer = await _read_one(call)
        if answer.WhichOneof("message") != "welcome":
            raise IncompatiblePeer(f"{self.key} did not say welcome first")
        welcome = answer.welcome
        if welcome.schema_revision != SCHEMA_REVISION:
            raise IncompatiblePeer(
                f"{self.key} speaks revision {welcome.schema_revision}, not {SCHEMA_REVISION}"
            )
        if welcome.epoch != self._epoch:
            raise IncompatiblePeer(f"{self.key} answered epoch {welcome.epoch}, not {self._epoch}")
        if self._batching.mode not in welcome.batching_modes:
            name = engine_pb2.BatchingMode.Name(self._batching.mode)
            raise IncompatiblePeer(f"{self.key} does not run {name}")
        return welcome

    async def _write(self, call: ServeCall) -> None:
        count = 0
        with suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):  # the reader tells
            while True:
                try:
                    async with asyncio.timeout(HEARTBEAT_S):
                        message = await self._outbox.get()
                except TimeoutError:
                    count += 1
                    heartbeat = engine_pb2.Heartbeat(count=count)
                    message = engine_pb2.ServeRequest(heartbeat=heartbeat)
                await call.write(message)

    async def _read(self, call: ServeCall) -> None:
        while True:
            message = await _read_one(call)
            match message.WhichOneof("message"):
                case "step":
                    self._log_failures(message.step.errors)
                    self._dispatcher.step(self, message.step)
                case "capacity":
                    self.last_capacity = message.capacity
                    self._dispatcher.capacity(self, message.capacity)
                case "heartbeat" | "drained":
                    pass
                case other:
                    raise IncompatiblePeer(f"{self.key} sent {other} in the middle of its stream")

    def _log_failures(self, failures: Iterable[engine_pb2.SequenceError]) -> None:
        for failure in failures:
            logs.get_logger().error(
                "sequence failed",
                engine=self.name,
                job=failure.sequence_id,
                code=engine_pb2.SequenceErrorCode.Name(failure.code),
                message=failure.message,
            )

    def _complain(self, error: Exception) -> None:
        """Logs why the link is down, once for each reason until it is up again."""
        is_rpc = isinstance(error, grpc.aio.AioRpcError)
        complaint = decode(error).message if is_rpc else str(error)  # type: ignore[arg-type]
        if complaint not in self._complaints:
            logs.get_logger().warning("no engine", address=self.key, why=complaint)
        self._complaints.add(complaint)


async def _read_one(call: ServeCall) -> engine_pb2.ServeResponse:
    """The next message. Raises ConnectionError at the end and where none comes in time."""
    try:
        # Not wait_for: it swallows a cancellation that meets a message (Python 3.11).
        async with asyncio.timeout(DEAD_AFTER_S):
            message = await call.read()
    except TimeoutError:
        raise ConnectionError(f"nothing heard for {DEAD_AFTER_S:g} s") from None
    if not isinstance(message, engine_pb2.ServeResponse):
        raise ConnectionError("the engine ended the stream")
    return message
