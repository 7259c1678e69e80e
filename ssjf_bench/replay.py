"""Replays a workload against a gateway, open loop, and records every request.

Open loop: a request is sent at its arrival whatever became of the earlier ones, and
its completion time counts from the arrival, so a slow system cannot hide behind
late requests. Knows the gateway's public contract; used by the demo and benchmarks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Final

import grpc

from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, errors
from ssjf_bench.workload import Request, Workload

OK = "OK"
ROLES: Final[Mapping[str, prompt_pb2.ChatRole.ValueType]] = {
    "system": prompt_pb2.CHAT_ROLE_SYSTEM,
    "assistant": prompt_pb2.CHAT_ROLE_ASSISTANT,
}
"""Everyone else, tools included, is a user: the contract knows no other role."""


@dataclass(slots=True)
class Record:
    """What became of one request. Times are seconds from the start of the replay.

    Filled while its stream runs; complete when `outcome` is set.
    """

    request: Request
    """What was sent."""
    arrival_s: float
    """When it was due."""
    sent_s: float = 0.0
    """When it was sent; later than `arrival_s` by the replay's own lag."""
    queued_s: float | None = None
    """When the client learned that it is queued."""
    started_s: float | None = None
    """When the client learned that an engine has it."""
    end_s: float | None = None
    """When its stream ended."""
    token_times_s: list[float] = field(default_factory=list)
    """When each token came."""
    token_ids: list[int] = field(default_factory=list)
    """The answer."""
    text: str = ""
    """The answer."""
    prompt_tokens: int | None = None
    """Length of the prompt, chat template applied."""
    predicted_tokens: float | None = None
    """What it was last queued under."""
    predicted_by_model: bool | None = None
    """Whether that came from the predictor; False for the prior."""
    finish_reason: str | None = None
    """Name of the FinishReason."""
    outcome: str = ""
    """OK, or the status code's name."""
    error: str = ""
    """Reason and message of a failure."""

    @property
    def jct_s(self) -> float | None:
        """Job completion time: from its arrival to its end; None unless it finished."""
        return self.end_s - self.arrival_s if self.end_s is not None and self.ok else None

    @property
    def ttft_s(self) -> float | None:
        """From its arrival to its first token; None without one."""
        return self.token_times_s[0] - self.arrival_s if self.token_times_s else None

    @property
    def output_tokens(self) -> int:
        """Tokens of the answer."""
        return len(self.token_ids)

    @property
    def ok(self) -> bool:
        """Whether the answer is complete."""
        return self.outcome == OK


async def replay(
    address: str, workload: Workload, on_end: Callable[[Record], None] = lambda _: None
) -> list[Record]:
    """Sends every request at its arrival and returns the records, in order of arrival.

    Calls `on_end` whenever a request has ended. A failed request is a record, not an
    exception.
    """
    async with connected(address) as client:
        run = client.begin(workload, on_end)
        await run.finished()
        return run.records


@asynccontextmanager
async def connected(address: str, delta_interval_ms: int = 0) -> AsyncIterator[Client]:
    """A client of the gateway at `address`, for one or several replays.

    `delta_interval_ms`: tokens that come within it are sent together (0: a delta a step).
    """
    async with channel.connect(address) as connection:
        # Else the first requests of a burst would wait for the connection, in any order.
        await connection.channel_ready()
        yield Client(connection, delta_interval_ms)


class Client:
    """Replays workloads over one connection."""

    def __init__(self, connection: grpc.aio.Channel, delta_interval_ms: int) -> None:
        self._stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        self._delta_interval_ms = delta_interval_ms

    def begin(
        self, workload: Workload, on_end: Callable[[Record], None] = lambda _: None
    ) -> Replay:
        """A replay whose time 0 is now; its requests are sent while `finished` is awaited."""
        messages = [to_message(each, self._delta_interval_ms) for each in workload.requests]
        records = [
            Record(request, arrival_s)
            for request, arrival_s in zip(workload.requests, workload.arrivals_s, strict=True)
        ]
        return Replay(self._stub, messages, records, on_end)


class Replay:
    """One pass over a workload; `records` fill while it runs, in order of arrival."""

    def __init__(
        self,
        stub: gateway_pb2_grpc.GatewayServiceAsyncStub,
        messages: Sequence[gateway_pb2.GenerateRequest],
        records: list[Record],
        on_end: Callable[[Record], None],
    ) -> None:
        self._stub = stub
        self._messages = messages
        self._on_end = on_end
        self.records = records
        """What became of the requests; whole after `finished`."""
        self.start_s = time.monotonic()
        """When it began, on the monotonic clock."""

    async def finished(self) -> None:
        """Sends every request at its arrival and returns when all have ended."""
        async with asyncio.TaskGroup() as tasks:
            for message, record in zip(self._messages, self.records, strict=True):
                await asyncio.sleep(max(0.0, record.arrival_s - self._now_s()))
                tasks.create_task(self._one(message, record))

    async def _one(self, message: gateway_pb2.GenerateRequest, record: Record) -> None:
        record.sent_s = self._now_s()
        call = self._stub.Generate(message)
        try:
            async for response in call:
                self._note(record, response)
            record.outcome = OK
        except grpc.aio.AioRpcError as error:
            details = errors.decode(error)
            record.outcome = details.code.name
            record.error = f"{details.reason} {details.message}".strip()
        finally:
            call.cancel()
            record.end_s = self._now_s()
        self._on_end(record)

    def _note(self, record: Record, response: gateway_pb2.GenerateResponse) -> None:
        now_s = self._now_s()
        match response.WhichOneof("event"):
            case "queued":
                record.queued_s = now_s
                record.prompt_tokens = response.queued.prompt_tokens
            case "started":
                record.started_s = now_s
            case "delta":
                record.text += response.delta.text
                record.token_ids.extend(response.delta.token_ids)
                record.token_times_s.extend([now_s] * len(response.delta.token_ids))
            case "finished":
                prediction = response.finished.length_prediction
                record.predicted_tokens = prediction.predicted_tokens
                record.predicted_by_model = prediction.source == gateway_pb2.PREDICTION_SOURCE_MODEL
                record.finish_reason = sampling_pb2.FinishReason.Name(response.finished.reason)

    def _now_s(self) -> float:
        return time.monotonic() - self.start_s


def to_message(request: Request, delta_interval_ms: int = 0) -> gateway_pb2.GenerateRequest:
    """The request as the gateway reads it.

    An answer's length travels in the payload that the gateway hands on unread: no scheduler
    sees it.
    """
    message = gateway_pb2.GenerateRequest(
        request_id=request.request_id,
        sampling=sampling_pb2.SamplingParams(
            max_tokens=request.max_tokens, temperature=request.temperature, seed=request.seed
        ),
        stream=gateway_pb2.StreamOptions(delta_interval_ms=delta_interval_ms),
    )
    if request.turns:
        message.chat.CopyFrom(_chat(request))
    else:
        message.prompt = request.prompt
    if request.output_tokens is not None:
        payload = engine_pb2.BenchmarkPayload(forced_output_tokens=request.output_tokens)
        message.benchmark_payload = payload.SerializeToString()
    return message


def _chat(request: Request) -> prompt_pb2.Chat:
    chat = prompt_pb2.Chat()
    for index, (role, content) in enumerate(request.turns):
        # Instructions are for the first message alone.
        known = ROLES if index == 0 else {"assistant": ROLES["assistant"]}
        chat.messages.add(role=known.get(role, prompt_pb2.CHAT_ROLE_USER), content=content)
    chat.messages.add(role=prompt_pb2.CHAT_ROLE_USER, content=request.prompt)
    return chat
