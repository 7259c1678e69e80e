"""Replays a workload against a gateway, open loop, and records every request.

Open loop: a request is sent at its arrival whatever became of the earlier ones, and
its completion time counts from the arrival, so a slow system cannot hide behind
late requests. Knows the gateway's public contract; used by the demo and benchmarks.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import grpc

from ssjf.engine.v1 import sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, errors
from ssjf_bench.workload import Request, Workload

OK = "OK"


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
    async with channel.connect(address) as connection:
        # Else the first requests of a burst would wait for the connection, in any order.
        await connection.channel_ready()
        return await _Replay(connection, on_end).run(workload)


class _Replay:
    def __init__(self, connection: grpc.aio.Channel, on_end: Callable[[Record], None]) -> None:
        self._stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        self._on_end = on_end
        self._start = time.monotonic()

    async def run(self, workload: Workload) -> list[Record]:
        records = [
            Record(request, arrival_s)
            for request, arrival_s in zip(workload.requests, workload.arrivals_s, strict=True)
        ]
        async with asyncio.TaskGroup() as tasks:
            for record in records:
                await asyncio.sleep(max(0.0, record.arrival_s - self._now_s()))
                tasks.create_task(self._one(record))
        return records

    async def _one(self, record: Record) -> None:
        record.sent_s = self._now_s()
        call = self._stub.Generate(to_message(record.request))
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
        return time.monotonic() - self._start


def to_message(request: Request) -> gateway_pb2.GenerateRequest:
    """The request as the gateway reads it."""
    return gateway_pb2.GenerateRequest(
        prompt=request.prompt,
        request_id=request.request_id,
        sampling=sampling_pb2.SamplingParams(
            max_tokens=request.max_tokens, temperature=request.temperature, seed=request.seed
        ),
    )
