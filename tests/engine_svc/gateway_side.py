"""The gateway's side of a `Serve` stream, over a real channel."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from typing import Any

import grpc

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc, sampling_pb2
from ssjf.wire import channel
from ssjf.wire.schema import SCHEMA_REVISION

TIMEOUT_S = 30


class Gateway:
    """One connection; `async with` opens the stream, says hello and reads the welcome."""

    def __init__(self, address: str) -> None:
        self._channel = channel.connect(address)
        self.stub = engine_pb2_grpc.EngineServiceStub(self._channel)
        self.call: Any = None
        self.welcome = engine_pb2.Welcome()
        self.capacity = engine_pb2.Capacity()
        self.log: list[engine_pb2.ServeResponse] = []

    async def __aenter__(self) -> Gateway:
        self.open()
        await self.send(hello=hello())
        self.welcome = (await self.read()).welcome
        await self.until("capacity")
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def open(self) -> None:
        self.call = self.stub.Serve()

    async def close(self) -> None:
        if self.call is not None:
            self.call.cancel()
        await self._channel.close()

    async def send(self, **message: Any) -> None:
        await self.call.write(engine_pb2.ServeRequest(**message))

    async def send_batch(self, batch_id: int, sequences: Sequence[engine_pb2.Sequence]) -> None:
        await self.send(batch=engine_pb2.ScheduledBatch(batch_id=batch_id, sequences=sequences))

    async def read(self) -> engine_pb2.ServeResponse:
        """The next message; raises what the engine ended the stream with."""
        message = await asyncio.wait_for(self.call.read(), TIMEOUT_S)
        if message is grpc.aio.EOF:
            raise EOFError
        assert isinstance(message, engine_pb2.ServeResponse)
        self.log.append(message)
        if message.WhichOneof("message") == "capacity":
            self.capacity = message.capacity
        return message

    async def until(self, kind: str) -> engine_pb2.ServeResponse:
        """Reads up to the next message of a kind."""
        while (message := await self.read()).WhichOneof("message") != kind:
            pass
        return message

    async def until_the_end(self) -> None:
        """Reads until the stream ends; raises EOFError, or what it ended with."""
        while True:
            await self.read()

    async def until_idle(self) -> None:
        """Reads until the engine says that nothing runs."""
        while (await self.until("capacity")).capacity.running_sequences:
            pass

    def kinds(self) -> list[str | None]:
        """What came, without the heartbeats."""
        kinds = [message.WhichOneof("message") for message in self.log]
        return [kind for kind in kinds if kind != "heartbeat"]

    def tokens(self, sequence_id: int) -> list[int]:
        """Tokens of one sequence so far; fails on a gap or a repetition."""
        found: list[int] = []
        for message in self.log:
            step = message.step
            for each, index, token in zip(
                step.sequence_ids, step.indices, step.token_ids, strict=True
            ):
                if each == sequence_id:
                    assert index == len(found)
                    found.append(token)
        return found

    def text(self, sequence_id: int) -> str:
        steps = [message.step for message in self.log]
        rows = [row for step in steps for row in zip(step.sequence_ids, step.texts, strict=True)]
        return "".join(text for each, text in rows if each == sequence_id)

    async def until_finished(self) -> engine_pb2.SequenceFinished:
        """Reads up to the next sequence that ends well."""
        while not (found := (await self.until("step")).step.finished):
            pass
        return found[0]

    async def until_failed(self) -> engine_pb2.SequenceError:
        """Reads up to the next sequence that fails."""
        while not (found := (await self.until("step")).step.errors):
            pass
        return found[0]


def hello(**changes: Any) -> engine_pb2.Hello:
    fields: dict[str, Any] = {
        "gateway_id": "test",
        "schema_revision": SCHEMA_REVISION,
        "epoch": 1,
        "batching_mode": engine_pb2.BATCHING_MODE_CONTINUOUS,
    }
    return engine_pb2.Hello(**{**fields, **changes})


def sequence(
    sequence_id: int, prompt: Sequence[int] = (5, 6, 7), payload: bytes = b"", **sampling: Any
) -> engine_pb2.Sequence:
    params = sampling_pb2.SamplingParams(**{"max_tokens": 8, "temperature": 0.0, **sampling})
    return engine_pb2.Sequence(
        sequence_id=sequence_id,
        prompt_token_ids=prompt,
        sampling=params,
        benchmark_payload=payload,
    )
