"""Load on a running predictor: closed-loop gRPC clients, in processes of their own.

Owns the clients, when they start and which calls count. A client waits for an answer
before it sends its next call, so `concurrency` calls are in flight. How busy the clients
were is part of the result: a client without a core to itself measures itself. Knows the
predictor's contract and no service.
"""

from __future__ import annotations

import asyncio
import itertools
import multiprocessing
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import grpc
import uvloop

from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import channel, errors
from ssjf_bench.latency import Latency, latency
from ssjf_bench.predictor_prompts import Prompts
from ssjf_bench.proc import cpu_s

START_TIMEOUT_S = 60.0
WARM_UP_SHARE = 0.25
MAX_WARM_UP_S = 2.0
# Numbers of prompts: each task of each client counts through a range of its own.
TASK_PROMPTS = 1_000_000

_barrier: threading.Barrier | None = None


class LoadError(Exception):
    """A call failed, or the clients could not start."""


@dataclass(frozen=True, slots=True)
class Load:
    """What is sent."""

    prompts_a_call: int
    """Items of each `Predict`."""
    concurrency: int
    """Calls in flight, of all clients together."""
    clients: int
    """Processes that send them."""
    seconds: float
    """How long calls are counted; warming up comes before."""
    repeat: bool = False
    """Whether every call carries the same prompts."""
    server_pids: tuple[int, ...] = ()
    """The predictors' processes, where they are on this machine."""


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What came of it."""

    latency: Latency
    """Of calls, from before the request is built to the parsed answer."""
    prompts_per_s: float
    """Prompts answered while calls were counted, over that time."""
    client_cores: tuple[float, ...]
    """CPU seconds a second of each client; near 1 it is the client that is measured."""
    server_cores: float | None
    """The same of the predictors together; None where they are not on this machine."""


@dataclass(frozen=True, slots=True)
class _Counted:
    times_s: list[float]
    answered: int
    cores: float
    server_cores: float


def run(address: str, prompts: Prompts, load: Load, first_prompt: int) -> LoadResult:
    """Puts the load on the predictor at `address`, or on several, with prompts from number
    `first_prompt`; `address` is as `channel.connect_balanced` takes it.

    Raises LoadError where a call fails.
    """
    clients = min(load.clients, load.concurrency)
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(clients)
    with ProcessPoolExecutor(clients, context, _join, (barrier,)) as pool:
        # All of them wait for the last one, so each process gets one client.
        futures = [
            pool.submit(_client, address, prompts, load, index, clients, first_prompt)
            for index in range(clients)
        ]
        counted = [future.result() for future in futures]
    times_s = list(itertools.chain.from_iterable(each.times_s for each in counted))
    if not times_s:
        raise LoadError(f"no call ended within {load.seconds:g} s")
    answered = sum(each.answered for each in counted) * load.prompts_a_call
    cores = tuple(each.cores for each in counted)
    server_cores = counted[0].server_cores if load.server_pids else None
    return LoadResult(latency(times_s), answered / load.seconds, cores, server_cores)


def _join(barrier: threading.Barrier) -> None:
    global _barrier  # the only way into a pool's process
    _barrier = barrier


def _client(
    address: str, prompts: Prompts, load: Load, index: int, clients: int, first_prompt: int
) -> _Counted:
    """One process: its share of the calls in flight."""
    tasks = range(index, load.concurrency, clients)
    client = _Client(prompts, load, [first_prompt + task * TASK_PROMPTS for task in tasks])
    try:
        return uvloop.run(client.run(address))
    except ExceptionGroup as group:
        # One failed call ends them all; a process hands its exception on as plain text.
        raise LoadError(str(group.exceptions[0])) from None
    except (TimeoutError, threading.BrokenBarrierError):
        raise LoadError(f"{address}: not connected within {START_TIMEOUT_S:g} s") from None


class _Client:
    def __init__(self, prompts: Prompts, load: Load, first_prompts: list[int]) -> None:
        self._prompts = prompts
        self._load = load
        self._first_prompts = first_prompts
        self._times_s: list[float] = []
        self._answered = 0
        self._start_s = 0.0
        self._end_s = 0.0

    async def run(self, address: str) -> _Counted:
        async with channel.connect_balanced(address) as connection:
            await asyncio.wait_for(connection.channel_ready(), START_TIMEOUT_S)
            stub = predictor_pb2_grpc.PredictorServiceStub(connection)
            assert _barrier is not None  # noqa: S101 (the pool's initialiser ran)
            await asyncio.to_thread(_barrier.wait, START_TIMEOUT_S)
            warm_up_s = min(MAX_WARM_UP_S, WARM_UP_SHARE * self._load.seconds)
            self._start_s = time.perf_counter() + warm_up_s
            self._end_s = self._start_s + self._load.seconds
            async with asyncio.TaskGroup() as tasks:
                watch = tasks.create_task(self._cores())
                for first in self._first_prompts:
                    tasks.create_task(self._calls(stub, first))
        return _Counted(self._times_s, self._answered, *watch.result())

    async def _calls(self, stub: predictor_pb2_grpc.PredictorServiceAsyncStub, first: int) -> None:
        """Calls, one after the other, until the time is over and one at least was measured."""
        for texts in self._texts(first):
            sent_s = time.perf_counter()
            if sent_s >= self._end_s and self._times_s:
                return
            await _predict(stub, texts)
            now_s = time.perf_counter()
            self._answered += self._start_s <= now_s < self._end_s
            if sent_s >= self._start_s:
                self._times_s.append(now_s - sent_s)

    def _texts(self, first: int) -> Iterator[list[str]]:
        size = self._load.prompts_a_call
        starts = itertools.repeat(first) if self._load.repeat else itertools.count(first, size)
        for start in starts:
            yield [self._prompts.prompt(number) for number in range(start, start + size)]

    async def _cores(self) -> tuple[float, float]:
        """CPU seconds a second, of this process and of the predictors."""
        await asyncio.sleep(self._start_s - time.perf_counter())
        before = self._cpu_s()
        await asyncio.sleep(self._end_s - time.perf_counter())
        own_s, server_s = (now - then for now, then in zip(self._cpu_s(), before, strict=True))
        return own_s / self._load.seconds, server_s / self._load.seconds

    def _cpu_s(self) -> tuple[float, float]:
        return time.process_time(), sum(map(cpu_s, self._load.server_pids))


async def _predict(
    stub: predictor_pb2_grpc.PredictorServiceAsyncStub, texts: Sequence[str]
) -> None:
    """One call; raises LoadError where it fails."""
    items = [predictor_pb2.PredictItem(prompt=text) for text in texts]
    try:
        response = await stub.Predict(predictor_pb2.PredictRequest(items=items))
    except grpc.aio.AioRpcError as error:
        details = errors.decode(error)
        raise LoadError(f"Predict: {details.code.name} {details.message}") from None
    if len(response.predictions) != len(items):
        raise LoadError(f"{len(items)} prompts, {len(response.predictions)} predictions")
