"""One live run: warm-up, then the window, and what was seen of both.

Owns the client's side of a run: replay, the processor time of everyone, how late this
client itself was, and the rows. Whether the run counts is `live_verdict`'s. Knows a gateway
by its address and services by their process ids; called by `ssjf bench live`.
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

import grpc
import uvloop

from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel
from ssjf_bench import proc, replay
from ssjf_bench.live_plan import PlannedRun
from ssjf_bench.live_records import LiveRow
from ssjf_bench.replay import Record, Replay
from ssjf_bench.workload import Workload

GENERATOR: Final = "generator"
UNFINISHED: Final = "UNFINISHED"
POLL_S: Final = 0.25
TICK_S: Final = 0.02


@dataclass(frozen=True, slots=True)
class Target:
    """A gateway that runs, and what runs behind it."""

    gateway: str
    """Its address, host:port."""
    pids: Mapping[str, int] = field(default_factory=dict)
    """Services by name, as far as they are on this machine."""
    broken: Callable[[], str] = lambda: ""
    """Says in a line which service has ended, and in others why; empty while all run."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a run brought."""

    warm_up: list[Record]
    """Requests before the window."""
    measured: list[Record]
    """Requests of the window, in order of arrival."""
    warm_up_began_s: float
    """When the warm-up began, in seconds of the window's clock; negative."""
    cpu_s: Mapping[str, float]
    """Processor time over the window, by service and of the generator."""
    elapsed_s: float
    """What the window took."""
    tick_lag_s: tuple[float, ...]
    """How late each tick of this client's own clock was."""
    broken: str
    """Why it ended early; empty where it did not."""
    gateway: Mapping[str, float | str | bool]
    """What the gateway says of itself afterwards; empty where it is gone."""

    @property
    def generator_cores(self) -> float:
        """Processor seconds a second of this client; near 1 it measures itself."""
        return self.cpu_s[GENERATOR] / max(self.elapsed_s, 1e-9)


def run(
    target: Target,
    warm_up: Workload,
    workload: Workload,
    *,
    delta_interval_ms: int,
    on_end: Callable[[Record], None] = lambda _: None,
) -> Seen:
    """Replays the warm-up to its end, then the workload.

    A request that fails is a record. Where a service ends, so does the run, with what it has.
    """
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(_run(target, warm_up, workload, delta_interval_ms, on_end))


async def _run(
    target: Target,
    warm_up: Workload,
    workload: Workload,
    delta_interval_ms: int,
    on_end: Callable[[Record], None],
) -> Seen:
    async with replay.connected(target.gateway, delta_interval_ms) as client:
        before = client.begin(warm_up, on_end)
        broken = await _finish(before, target)
        cpu_before = _cpu_s(target.pids)
        with _no_garbage_pauses():
            window = client.begin(workload, on_end)
            ticks: list[float] = []
            ticker = asyncio.create_task(_tick(ticks))
            broken = broken or await _finish(window, target)
            ticker.cancel()
        elapsed_s = time.monotonic() - window.start_s
        cpu_after = _cpu_s(target.pids)
    for record in (*before.records, *window.records):
        record.outcome = record.outcome or UNFINISHED
    return Seen(
        before.records,
        window.records,
        before.start_s - window.start_s,
        {name: cpu_after[name] - cpu_before[name] for name in cpu_after if name in cpu_before},
        elapsed_s,
        tuple(ticks),
        broken,
        {} if broken else await _gateway_says(target.gateway),
    )


async def _finish(pass_: Replay, target: Target) -> str:
    """Runs it to its end, or until a service has ended: then says which."""
    whole = asyncio.create_task(pass_.finished())
    try:
        while not whole.done():
            await asyncio.wait({whole}, timeout=POLL_S)
            if not whole.done() and (broken := target.broken()):
                return broken
        whole.result()
        return target.broken()
    finally:
        whole.cancel()
        with suppress(asyncio.CancelledError):
            await whole


@contextmanager
def _no_garbage_pauses() -> Iterator[None]:
    """What is there already is not searched again and again while requests are sent."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()


async def _tick(lags_s: list[float]) -> None:
    """Notes how late this loop is: what it reads, it reads so much later than it came."""
    while True:
        due_s = time.monotonic() + TICK_S
        await asyncio.sleep(TICK_S)
        lags_s.append(time.monotonic() - due_s)


def _cpu_s(pids: Mapping[str, int]) -> dict[str, float]:
    used = {GENERATOR: time.process_time()}
    for name, pid in pids.items():
        with suppress(OSError):  # it has ended, which is the run's end, too
            used[name] = proc.tree_cpu_s(pid)
    return used


async def _gateway_says(address: str) -> dict[str, float | str | bool]:
    async with channel.connect(address) as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        try:
            queue = await stub.GetQueue(gateway_pb2.GetQueueRequest(max_entries=0), timeout=10)
            info = await stub.GetServerInfo(gateway_pb2.GetServerInfoRequest(), timeout=10)
        except grpc.aio.AioRpcError:
            return {}
    counters, scheduling = queue.counters, queue.scheduling
    return {
        "policy_in_force": scheduling.active_policy,
        "fallback": scheduling.fallback,
        "bound_violations": scheduling.bound_violations,
        "predictor_revision": info.predictor.revision,
        "predictions_late": counters.predictions_late,
        "predictions_failed": counters.predictions_failed,
        "predictions_skipped": counters.predictions_skipped,
        "repriced": counters.repriced,
    }


def rows(planned: PlannedRun, seen: Seen) -> list[LiveRow]:
    """A row for each request, warm-up first; times on the window's clock."""
    return [
        *(_row(planned, record, seen.warm_up_began_s, measured=False) for record in seen.warm_up),
        *(_row(planned, record, 0.0, measured=True) for record in seen.measured),
    ]


def _row(planned: PlannedRun, record: Record, began_s: float, *, measured: bool) -> LiveRow:
    def at(time_s: float | None) -> float | None:
        return None if time_s is None else round(time_s + began_s, 6)

    request = record.request
    return LiveRow(
        run=planned.name,
        policy=planned.choice.policy,
        mode=planned.engine.mode,
        max_batch=planned.engine.max_batch,
        load=planned.load,
        repeat=planned.repeat,
        request_id=request.request_id,
        prompt_id=request.prompt_id,
        category=request.source,
        llm=request.llm,
        seed=request.seed,
        measured=measured,
        arrival_s=round(record.arrival_s + began_s, 6),
        sent_s=round(record.sent_s + began_s, 6),
        queued_s=at(record.queued_s),
        started_s=at(record.started_s),
        first_token_s=at(record.token_times_s[0] if record.token_times_s else None),
        end_s=at(record.end_s),
        prompt_tokens=record.prompt_tokens,
        predicted_tokens=record.predicted_tokens,
        predicted_by_model=record.predicted_by_model,
        forced_tokens=request.output_tokens,
        output_tokens=record.output_tokens,
        finish_reason=record.finish_reason,
        outcome=record.outcome,
        error=record.error,
    )
