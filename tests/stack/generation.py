"""A client for the service tests: requests in short form, answers with their events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any, Self

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ssjf.engine.v1 import prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, errors

GATEWAY = "ssjf.gateway.v1.GatewayService"
POLL_S = 0.02

Response = gateway_pb2.GenerateResponse


def request(
    prompt: str | None = "Count from one to ten.",
    *,
    max_tokens: int = 8,
    temperature: float = 0.0,
    sampling: dict[str, Any] | None = None,
    **fields: Any,
) -> gateway_pb2.GenerateRequest:
    """A request; greedy and short unless told otherwise."""
    merged = {"max_tokens": max_tokens, "temperature": temperature, **(sampling or {})}
    given = {name: value for name, value in merged.items() if value is not None}
    parameters = sampling_pb2.SamplingParams(**given)
    if prompt is not None:
        fields["prompt"] = prompt
    return gateway_pb2.GenerateRequest(sampling=parameters, **fields)


def endless(request_id: str = "", **fields: Any) -> gateway_pb2.GenerateRequest:
    """A request that keeps its place at the engine until it is cancelled."""
    return request(
        "Tell me everything.",
        max_tokens=1500,
        sampling={"ignore_eos": True},
        request_id=request_id,
        **fields,
    )


def chat(*messages: tuple[int, str]) -> prompt_pb2.Chat:
    return prompt_pb2.Chat(
        messages=[prompt_pb2.ChatMessage(role=role, content=text) for role, text in messages]  # type: ignore[arg-type]
    )


def user(text: str) -> tuple[int, str]:
    return prompt_pb2.CHAT_ROLE_USER, text


@dataclass(slots=True)
class Answer:
    """The events of one stream."""

    events: list[Response] = field(default_factory=list)

    @property
    def kinds(self) -> list[str]:
        return [event.WhichOneof("event") or "" for event in self.events]

    @property
    def deltas(self) -> list[gateway_pb2.Delta]:
        return [event.delta for event in self.events if event.HasField("delta")]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def token_ids(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def queued(self) -> gateway_pb2.Queued:
        return self.events[0].queued

    @property
    def finished(self) -> gateway_pb2.Finished:
        return self.events[-1].finished


@dataclass(slots=True)
class Call:
    """A stream that the test reads step by step."""

    stream: Any
    answer: Answer = field(default_factory=Answer)

    async def until(self, kind: str) -> Self:
        """Reads up to the first event of this kind, which must come."""
        while kind not in self.answer.kinds:
            event = await self.stream.read()
            assert event is not grpc.aio.EOF, f"ended without {kind}: {self.answer.kinds}"
            self.answer.events.append(event)
        return self

    async def rest(self) -> Answer:
        """Reads to the end. Raises AioRpcError where the call fails."""
        while (event := await self.stream.read()) is not grpc.aio.EOF:
            self.answer.events.append(event)
        return self.answer

    async def failure(self) -> errors.ErrorDetails:
        """Reads to the failure that must come."""
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await self.rest()
        return errors.decode(caught.value)

    def cancel(self) -> None:
        self.stream.cancel()


class Client:
    """One channel to a gateway."""

    def __init__(self, connection: grpc.aio.Channel) -> None:
        self.connection = connection
        self._stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        health: Any = health_pb2_grpc.HealthStub(connection)
        self._health = health
        self._calls: list[Call] = []

    def open(self, message: gateway_pb2.GenerateRequest, timeout: float | None = None) -> Call:
        self._calls.append(Call(self._stub.Generate(message, timeout=timeout)))
        return self._calls[-1]

    async def generate(self, message: gateway_pb2.GenerateRequest) -> Answer:
        return await self.open(message).rest()

    async def generate_all(self, messages: Sequence[gateway_pb2.GenerateRequest]) -> list[Answer]:
        return await asyncio.gather(*(self.generate(message) for message in messages))

    async def failure(
        self, message: gateway_pb2.GenerateRequest, timeout: float | None = None
    ) -> errors.ErrorDetails:
        return await self.open(message, timeout).failure()

    async def queue(self) -> gateway_pb2.GetQueueResponse:
        return await self._stub.GetQueue(gateway_pb2.GetQueueRequest())

    async def info(self) -> gateway_pb2.GetServerInfoResponse:
        return await self._stub.GetServerInfo(gateway_pb2.GetServerInfoRequest())

    async def is_serving(self) -> bool:
        answer = await self._health.Check(health_pb2.HealthCheckRequest(service=GATEWAY))
        return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)

    async def until_serving(self, serving: bool) -> None:
        while await self.is_serving() is not serving:  # noqa: ASYNC110 (another process's state)
            await asyncio.sleep(POLL_S)

    async def until(
        self, holds: Callable[[gateway_pb2.GetQueueResponse], bool]
    ) -> gateway_pb2.GetQueueResponse:
        """The first snapshot of the queue of which `holds` is true."""
        while not holds(snapshot := await self.queue()):  # noqa: ASYNC110 (as above)
            await asyncio.sleep(POLL_S)
        return snapshot

    async def until_idle(self) -> gateway_pb2.Counters:
        """Waits until nothing waits or runs and the engine is all free; the counters then."""
        snapshot = await self.until(lambda s: s.waiting_count == s.running_count == 0)
        while not await self._engines_are_free():  # noqa: ASYNC110 (as above)
            await asyncio.sleep(POLL_S)
        return snapshot.counters

    async def _engines_are_free(self) -> bool:
        return all(is_free(engine) for engine in (await self.info()).engines)

    async def occupy(self, places: int) -> list[Call]:
        """Fills the engine; returns when every one of the calls has its place."""
        hogs = [self.open(endless()) for _ in range(places)]
        for hog in hogs:
            await hog.until("started")
        return hogs

    def cancel_all(self) -> None:
        for call in self._calls:
            call.cancel()


def is_free(engine: gateway_pb2.EngineStatus) -> bool:
    """Whether the engine holds nothing."""
    return (
        engine.capacity.running_sequences == 0
        and engine.capacity.free_sequences == engine.limits.max_sequences
        and engine.capacity.free_kv_tokens == engine.limits.kv_tokens
    )


def ledger_holds(counters: gateway_pb2.Counters) -> bool:
    """Whether every accepted request has had its one outcome, at idle."""
    ended = counters.finished + counters.cancelled + counters.failed
    return counters.accepted == ended


@asynccontextmanager
async def connected(address: str) -> AsyncIterator[Client]:
    """A client; what it left open is cancelled in the end."""
    async with channel.connect(address) as connection:
        await connection.channel_ready()
        client = Client(connection)
        try:
            yield client
        finally:
            client.cancel_all()
