"""Load on a running engine through `Serve`, as a gateway drives it.

Owns one stream: sends sequences of forced length as the engine says what it has free, and
counts what comes back. The engine must have been started with --benchmark and serve nobody
else. Knows the engine's contract and no service. `measure` does it from a process of its
own, so that nothing of the caller's (an engine's garbage, its libraries) is measured with it.
"""

from __future__ import annotations

import asyncio
import gc
import multiprocessing
import statistics
import time
from collections import deque
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import grpc
import uvloop

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc, sampling_pb2
from ssjf.wire import channel, errors
from ssjf.wire.schema import SCHEMA_REVISION

if TYPE_CHECKING:
    ServeCall = grpc.aio.StreamStreamCall[engine_pb2.ServeRequest, engine_pb2.ServeResponse]

HEARTBEAT_S: Final = 1.0
SILENCE_LIMIT_S: Final = 30.0
"""An engine that says nothing for so long, no heartbeat either, is broken."""


class EngineLoadError(Exception):
    """The engine did not do what was asked; the message is one line."""


@dataclass(frozen=True, slots=True)
class Work:
    """One sequence: greedy, of a length fixed beforehand."""

    prompt: tuple[int, ...]
    """Token ids."""
    output_tokens: int
    """Tokens of the answer, at least 1."""


@dataclass(frozen=True, slots=True)
class ServeFigures:
    """What came back."""

    sequences: int
    """Sequences, all of them finished."""
    tokens: int
    """Tokens of all answers."""
    seconds: float
    """From the first batch sent to the last end read."""
    tokens_per_s: float
    """Tokens over these seconds, prefill included."""
    steps: int
    """Steps of the engine."""
    step_ms: float
    """Median duration of a step that gave tokens, as the engine reports it."""
    steps_s: float
    """All these steps together; the rest of `seconds` is the way to the engine and back."""
    messages: int
    """Messages with tokens; fewer than steps where the stream was slower than the engine."""
    first_token_ms: float
    """Median time from the first batch sent to a sequence's first token."""
    client_cpu_s: float
    """CPU time of this process meanwhile; near `seconds` it is the client that is measured."""


def measure(address: str, works: Sequence[Work], times: int) -> list[ServeFigures]:
    """Runs `serve_load` so many times, from a process of its own. Raises EngineLoadError."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_measure, address, works, times).result()


def _measure(address: str, works: Sequence[Work], times: int) -> list[ServeFigures]:
    gc.collect()
    gc.freeze()
    return [uvloop.run(serve_load(address, works)) for _ in range(times)]


async def serve_load(address: str, works: Sequence[Work]) -> ServeFigures:
    """Runs the sequences in their order, as many at once as the engine takes.

    `address` is host:port. Raises EngineLoadError.
    """
    async with channel.connect(address) as opened:
        stub: engine_pb2_grpc.EngineServiceAsyncStub = engine_pb2_grpc.EngineServiceStub(opened)
        call = stub.Serve()
        try:
            return await _Run(call, works).run()
        except grpc.aio.AioRpcError as error:
            details = errors.decode(error)
            raise EngineLoadError(f"Serve: {details.code.name} {details.message}") from error
        finally:
            call.cancel()


class _Run:
    """One stream from its hello to the last end."""

    def __init__(self, call: ServeCall, works: Sequence[Work]) -> None:
        self._call = call
        self._works = works
        self._writing = asyncio.Lock()
        self._unsent = deque(enumerate(works, 1))
        # Made beforehand: the engine is measured, not how long this takes.
        self._messages = {number: _sequence(number, work) for number, work in self._unsent}
        self._running: dict[int, Work] = {}
        self._given = [0] * (len(works) + 1)
        self._limits = engine_pb2.EngineLimits()
        self._under_way: dict[int, tuple[int, int]] = {}  # batch -> sequences, KV tokens
        self._batch_id = 0
        self._step = 0
        self._steps_ms: list[tuple[float, int]] = []  # of a message, and how many steps they are
        self._first_s: list[float] = []

    async def run(self) -> ServeFigures:
        await self._greet()
        beating = asyncio.ensure_future(self._beat())
        try:
            # Not before: until the engine says what is free, nothing has been asked of it.
            capacity = await self._capacity()
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await self._fill(capacity)
            while self._unsent or self._running:
                await self._take(await self._read())
            seconds = time.perf_counter() - began_s
            cpu_s = time.process_time() - began_cpu_s
        finally:
            beating.cancel()
            await asyncio.gather(beating, return_exceptions=True)
        return self._figures(began_s, seconds, cpu_s)

    async def _capacity(self) -> engine_pb2.Capacity:
        while (message := await self._read()).WhichOneof("message") != "capacity":
            pass
        return message.capacity

    def _figures(self, began_s: float, seconds: float, cpu_s: float) -> ServeFigures:
        tokens = sum(self._given)
        return ServeFigures(
            sequences=len(self._works),
            tokens=tokens,
            seconds=seconds,
            tokens_per_s=tokens / seconds,
            steps=sum(steps for _, steps in self._steps_ms),
            step_ms=statistics.median(ms / steps for ms, steps in self._steps_ms),
            steps_s=sum(ms for ms, _ in self._steps_ms) / 1e3,
            messages=len(self._steps_ms),
            first_token_ms=(statistics.median(self._first_s) - began_s) * 1e3,
            client_cpu_s=cpu_s,
        )

    async def _greet(self) -> None:
        hello = engine_pb2.Hello(
            gateway_id="ssjf bench",
            schema_revision=SCHEMA_REVISION,
            epoch=1,
            batching_mode=engine_pb2.BATCHING_MODE_CONTINUOUS,
        )
        await self._write(engine_pb2.ServeRequest(hello=hello))
        welcome = (await self._read()).welcome
        if not welcome.benchmark:
            raise EngineLoadError("the engine was not started with --benchmark")
        self._limits = welcome.limits
        for work in self._works:
            if self._kv_tokens(work) > min(welcome.limits.kv_tokens, _most(welcome.limits)):
                raise EngineLoadError("a sequence is longer than the engine can hold")

    async def _beat(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            count += 1
            heartbeat = engine_pb2.Heartbeat(count=count)
            await self._write(engine_pb2.ServeRequest(heartbeat=heartbeat))

    async def _write(self, message: engine_pb2.ServeRequest) -> None:
        # Two tasks write; grpc.aio takes one message at a time.
        async with self._writing:
            await self._call.write(message)

    async def _read(self) -> engine_pb2.ServeResponse:
        try:
            async with asyncio.timeout(SILENCE_LIMIT_S):
                message = await self._call.read()
        except TimeoutError:
            raise EngineLoadError("the engine fell silent") from None
        if not isinstance(message, engine_pb2.ServeResponse):
            raise EngineLoadError("the engine ended the stream")
        return message

    async def _take(self, message: engine_pb2.ServeResponse) -> None:
        match message.WhichOneof("message"):
            case "step":
                self._count(message.step)
            case "capacity":
                await self._fill(message.capacity)
            case "drained":
                raise EngineLoadError("the engine is shutting down")

    def _count(self, step: engine_pb2.StepOutput) -> None:
        if step.errors:
            raise EngineLoadError(f"a sequence failed: {step.errors[0].message}")
        if step.sequence_ids:
            # The first message is of one step, as far as anybody knows.
            steps = step.step - self._step if self._step else 1
            self._steps_ms.append((step.step_ms, steps))
            self._step = step.step
        for sequence_id, index in zip(step.sequence_ids, step.indices, strict=True):
            if index != self._given[sequence_id]:
                raise EngineLoadError(f"token {index} came after {self._given[sequence_id]}")
            if not index:
                self._first_s.append(time.perf_counter())
            self._given[sequence_id] += 1
        for finished in step.finished:
            work = self._running.pop(finished.sequence_id)
            if self._given[finished.sequence_id] != work.output_tokens:
                raise EngineLoadError("an answer does not have its forced length")

    async def _fill(self, capacity: engine_pb2.Capacity) -> None:
        """Sends what fits into what is free once all that is under way has arrived."""
        for batch_id in [each for each in self._under_way if each <= capacity.batch_id]:
            del self._under_way[batch_id]
        sequences = capacity.free_sequences - sum(n for n, _ in self._under_way.values())
        kv_tokens = capacity.free_kv_tokens - sum(kv for _, kv in self._under_way.values())
        batch: list[tuple[int, Work]] = []
        while self._unsent and len(batch) < sequences:
            needed = self._kv_tokens(self._unsent[0][1])
            if needed > kv_tokens:
                break
            kv_tokens -= needed
            batch.append(self._unsent.popleft())
        if batch:
            await self._send(batch)

    async def _send(self, batch: list[tuple[int, Work]]) -> None:
        self._batch_id += 1
        kv_tokens = sum(self._kv_tokens(work) for _, work in batch)
        self._under_way[self._batch_id] = len(batch), kv_tokens
        self._running.update(batch)
        request = engine_pb2.ServeRequest()
        request.batch.batch_id = self._batch_id
        request.batch.sequences.extend(self._messages[number] for number, _ in batch)
        await self._write(request)

    def _kv_tokens(self, work: Work) -> int:
        """What the sequence takes of the KV cache, in whole blocks."""
        block = max(1, self._limits.kv_block_tokens)
        return -(-(len(work.prompt) + work.output_tokens) // block) * block


def _most(limits: engine_pb2.EngineLimits) -> int:
    """The longest sequence in whole blocks."""
    block = max(1, limits.kv_block_tokens)
    return -(-limits.max_context_tokens // block) * block


def _sequence(sequence_id: int, work: Work) -> engine_pb2.Sequence:
    forced = engine_pb2.BenchmarkPayload(forced_output_tokens=work.output_tokens)
    return engine_pb2.Sequence(
        sequence_id=sequence_id,
        prompt_token_ids=work.prompt,
        sampling=sampling_pb2.SamplingParams(
            max_tokens=work.output_tokens, temperature=0.0, seed=sequence_id
        ),
        benchmark_payload=forced.SerializeToString(),
    )
