"""Load on a running gateway: streams that are read in processes of their own.

Owns the clients, when they start and which messages count. How busy the clients were
is part of the result: a client without a core to itself measures itself. Knows the
gateway's and the engine's contracts and no service. Called by `ssjf bench gateway`.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import threading
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

import grpc
import uvloop

from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, errors
from ssjf_bench.proc import cpu_s, resident_bytes

START_TIMEOUT_S: Final = 120.0
SETTLE_S: Final = 2.0
STREAMS_A_CONNECTION: Final = 1000
OPENED_AT_ONCE: Final = 500
PROMPT_TOKENS: Final = 64

_barrier: threading.Barrier | None = None


class LoadError(Exception):
    """A call failed, or the clients could not start."""


@dataclass(frozen=True, slots=True)
class Load:
    """Streams that are open all the time; one that ends is opened again."""

    streams: int
    """Open at once, of all clients together."""
    clients: int
    """Processes that read them."""
    seconds: float
    """How long messages are counted; settling comes before."""
    answer_tokens: int
    """Tokens of each answer."""
    delta_interval_ms: int
    """Least time between two deltas; 0: one for each step."""
    gateway_pid: int
    """The gateway's process, on this machine."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the clients got while they counted."""

    messages_per_s: float
    tokens_per_s: float
    tokens_a_message: float
    client_cores: tuple[float, ...]
    """CPU seconds a second of each client; near 1 it is the client that is measured."""
    gateway_cores: float
    """The same of the gateway."""
    gateway_us_a_message: float
    """CPU time of the gateway, in microseconds."""
    gateway_us_a_token: float
    """The same by tokens."""


@dataclass(frozen=True, slots=True)
class Held:
    """A gateway with many requests queued."""

    streams: int
    open_s: float
    """From the first call to the last `queued`."""
    resident_bytes_before: int
    resident_bytes: int
    """With all of them queued."""
    cancelled_s: float
    """From the cancellation of all to an empty queue."""
    resident_bytes_after: int


@dataclass(frozen=True, slots=True)
class _Counted:
    messages: int
    tokens: int
    cores: float
    gateway_cores: float


def stream(address: str, load: Load) -> Delivered:
    """Puts the load on the gateway at `address`. Raises LoadError where a stream fails."""
    counted = _in_processes(_stream_client, address, load, load.clients)
    messages = sum(each.messages for each in counted)
    tokens = sum(each.tokens for each in counted)
    gateway_cores = counted[0].gateway_cores
    gateway_us = gateway_cores * load.seconds * 1e6
    return Delivered(
        messages_per_s=messages / load.seconds,
        tokens_per_s=tokens / load.seconds,
        tokens_a_message=tokens / max(1, messages),
        client_cores=tuple(each.cores for each in counted),
        gateway_cores=gateway_cores,
        gateway_us_a_message=gateway_us / max(1, messages),
        gateway_us_a_token=gateway_us / max(1, tokens),
    )


def hold(address: str, streams: int, clients: int, gateway_pid: int) -> Held:
    """Queues so many requests at once, looks at the gateway, and cancels them all.

    The engine behind it must be too slow to serve them meanwhile. Raises LoadError.
    """
    load = Load(streams, clients, 0.0, 1_000, 0, gateway_pid)
    before = resident_bytes(gateway_pid)
    found = _in_processes(_hold_client, address, load, clients)
    return Held(
        streams=streams,
        open_s=max(each.open_s for each in found),
        resident_bytes_before=before,
        resident_bytes=max(each.resident_bytes for each in found),
        cancelled_s=max(each.cancelled_s for each in found),
        resident_bytes_after=resident_bytes(gateway_pid),
    )


def _in_processes(client: Any, address: str, load: Load, clients: int) -> list[Any]:
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(clients)
    with ProcessPoolExecutor(clients, context, _join, (barrier,)) as pool:
        # All of them wait for the last one, so each process gets one client.
        futures = [pool.submit(client, address, load, index) for index in range(clients)]
        return [future.result() for future in futures]


def _join(barrier: threading.Barrier) -> None:
    global _barrier  # the only way into a pool's process
    _barrier = barrier


async def _all_here() -> None:
    assert _barrier is not None  # noqa: S101 (the pool's initialiser ran)
    await asyncio.to_thread(_barrier.wait, START_TIMEOUT_S)


def _stream_client(address: str, load: Load, index: int) -> _Counted:
    counted: _Counted = _run(_Reader(load, index).run(address))
    return counted


def _hold_client(address: str, load: Load, index: int) -> Held:
    held: Held = _run(_Holder(load, index).run(address))
    return held


def _run(work: Any) -> Any:
    try:
        return uvloop.run(work)
    except ExceptionGroup as group:
        # One failed call ends them all; a process hands its exception on as plain text.
        raise LoadError(str(group.exceptions[0])) from None
    except (TimeoutError, threading.BrokenBarrierError):
        raise LoadError(f"the clients were not ready within {START_TIMEOUT_S:g} s") from None


class _Reader:
    """One process's share of the streams."""

    def __init__(self, load: Load, index: int) -> None:
        self._load = load
        self._streams = len(range(index, load.streams, load.clients))
        self._messages = 0
        self._tokens = 0
        self._open = 0
        self._all_open = asyncio.Event()
        self._over = False

    async def run(self, address: str) -> _Counted:
        async with channel.connect(address) as connection:
            await asyncio.wait_for(connection.channel_ready(), START_TIMEOUT_S)
            stub = gateway_pb2_grpc.GatewayServiceStub(connection)
            await _all_here()
            async with asyncio.TaskGroup() as tasks:
                reading = [tasks.create_task(self._read(stub)) for _ in range(self._streams)]
                counted = await self._count()
                self._over = True
                for each in reading:
                    each.cancel()
        return counted

    async def _count(self) -> _Counted:
        await asyncio.wait_for(self._all_open.wait(), START_TIMEOUT_S)
        await asyncio.sleep(SETTLE_S)
        pid, seconds = self._load.gateway_pid, self._load.seconds
        own_s, gateway_s, start_s = time.process_time(), cpu_s(pid), time.perf_counter()
        self._messages = self._tokens = 0
        await asyncio.sleep(seconds)
        took_s = time.perf_counter() - start_s
        return _Counted(
            round(self._messages * seconds / took_s),
            round(self._tokens * seconds / took_s),
            (time.process_time() - own_s) / took_s,
            (cpu_s(pid) - gateway_s) / took_s,
        )

    async def _read(self, stub: Any) -> None:
        request = _request(self._load.answer_tokens, self._load.delta_interval_ms)
        while True:
            call = stub.Generate(request)
            try:
                await self._read_one(call)
            except grpc.aio.AioRpcError as error:
                if self._over:  # it is this client that cancelled it
                    return
                raise _failed(error) from None
            finally:
                call.cancel()

    def _opened(self) -> None:
        self._open += 1
        if self._open >= self._streams:
            self._all_open.set()

    async def _read_one(self, call: Any) -> None:
        first = True
        async for response in call:
            count = len(response.delta.token_ids)
            if count:
                self._messages += 1
                self._tokens += count
                if first:
                    self._opened()
                first = False


class _Holder:
    """One process's share of the requests that wait."""

    def __init__(self, load: Load, index: int) -> None:
        self._load = load
        self._streams = len(range(index, load.streams, load.clients))

    async def run(self, address: str) -> Held:
        channels = [
            # A pool of their own each, or they would share one connection.
            grpc.aio.insecure_channel(
                address, (*channel.OPTIONS, ("grpc.use_local_subchannel_pool", 1))
            )
            for _ in range(-(-self._streams // STREAMS_A_CONNECTION))
        ]
        stubs: list[Any] = [gateway_pb2_grpc.GatewayServiceStub(each) for each in channels]
        for each in channels:
            await asyncio.wait_for(each.channel_ready(), START_TIMEOUT_S)
        await _all_here()
        start_s = time.perf_counter()
        request = _request(self._load.answer_tokens, 0)
        calls: list[Any] = []
        while len(calls) < self._streams:
            count = min(OPENED_AT_ONCE, self._streams - len(calls))
            opened = [stubs[number % len(stubs)].Generate(request) for number in range(count)]
            await asyncio.gather(*(_until_queued(call) for call in opened))
            calls += opened
        open_s = time.perf_counter() - start_s
        await _all_here()
        held_bytes = resident_bytes(self._load.gateway_pid)
        await _all_here()
        cancel_s = time.perf_counter()
        for call in calls:
            call.cancel()
        await _until_empty(stubs[0])
        cancelled_s = time.perf_counter() - cancel_s
        for each in channels:
            await each.close()
        return Held(self._streams, open_s, 0, held_bytes, cancelled_s, 0)


async def _until_queued(call: Any) -> None:
    try:
        await call.read()
    except grpc.aio.AioRpcError as error:
        raise _failed(error) from None


def _failed(error: grpc.aio.AioRpcError) -> LoadError:
    details = errors.decode(error)
    return LoadError(f"Generate: {details.code.name} {details.message}")


async def _until_empty(stub: Any) -> None:
    request = gateway_pb2.GetQueueRequest(max_entries=0)
    async with asyncio.timeout(START_TIMEOUT_S):
        while True:
            queue = await stub.GetQueue(request)
            if not (queue.waiting_count or queue.running_count):
                return
            await asyncio.sleep(0.02)


def _request(answer_tokens: int, delta_interval_ms: int) -> gateway_pb2.GenerateRequest:
    forced = engine_pb2.BenchmarkPayload(forced_output_tokens=answer_tokens)
    return gateway_pb2.GenerateRequest(
        token_ids=prompt_pb2.TokenIds(ids=range(1, PROMPT_TOKENS + 1)),
        sampling=sampling_pb2.SamplingParams(max_tokens=answer_tokens),
        benchmark_payload=forced.SerializeToString(),
        stream=gateway_pb2.StreamOptions(delta_interval_ms=delta_interval_ms),
    )
