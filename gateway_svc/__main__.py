"""Composition root of the gateway: `python -m gateway_svc --help`."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Coroutine, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from gateway_svc.config import GatewaySettings
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.fleet import Fleet
from gateway_svc.predictor_client import PredictorClient
from gateway_svc.prior import PromptLengthPrior
from gateway_svc.scheduling import policy
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.quota import Limits
from gateway_svc.service import GatewayService
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import metrics, server
from ssjf.wire.health import Health
from ssjf.wire.run import StartupError, main_entry

SERVICE = gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name


async def serve(settings: GatewaySettings) -> None:
    """Runs the gateway until a signal has stopped it."""
    stop_metrics = metrics.serve(settings.metrics_port, settings.metrics_host)
    async with running_gateway(settings) as gateway:
        await server.serve_until_signal(
            gateway.listening, gateway.dispatcher.drain, settings.drain_timeout_s
        )
    stop_metrics()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that listens, with the parts that others look into."""

    listening: server.Listening
    dispatcher: Dispatcher
    fleet: Fleet


@asynccontextmanager
async def running_gateway(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """The whole gateway in this process; stops it on the way out, without a drain."""
    engines_changed = asyncio.Event()
    dispatcher = Dispatcher(
        build_core(settings),
        PromptLengthPrior(settings.prior_tokens),
        time.monotonic,
        engines_changed.set,
    )
    fleet = Fleet(settings.engine_addresses, dispatcher)
    address = settings.predictor_address
    predictor = PredictorClient(address, settings.prediction_timeout_s) if address else None
    service = GatewayService(settings, dispatcher, fleet, predictor)
    listening = await server.listen(
        settings,
        {SERVICE: lambda to: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(service, to)},
    )
    async with (
        _background(_report_readiness(listening.health, dispatcher, engines_changed)),
        _background(fleet.run()),
    ):
        try:
            yield Gateway(listening, dispatcher, fleet)
        finally:
            await listening.server.stop(grace=0)
    if predictor is not None:
        await predictor.close()


def build_core(settings: GatewaySettings) -> SchedulingCore:
    """The scheduling core that the settings describe."""
    options = policy.PolicyOptions(
        step_model=StepModel(settings.prefill_token_ms, settings.decode_token_ms),
        oracle_lengths=_oracle_lengths(settings.oracle_lengths),
    )
    limits = Limits(settings.max_queued, settings.queue_timeout_s, settings.max_passes)
    return SchedulingCore(policy.create(settings.policy, options), limits)


def _oracle_lengths(path: Path | None) -> Mapping[str, int] | None:
    """Output tokens by request id. Raises StartupError naming the file and what is wrong."""
    if path is None:
        return None
    try:
        lengths = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise StartupError(f"--oracle-lengths {path}: {error}") from error
    if not isinstance(lengths, dict) or not all(type(n) is int and n > 0 for n in lengths.values()):
        raise StartupError(f"--oracle-lengths {path}: not an object of positive integers")
    return lengths


async def _report_readiness(health: Health, dispatcher: Dispatcher, changed: asyncio.Event) -> None:
    """SERVING while an engine is connected; the drain says NOT_SERVING for good."""
    while True:
        await changed.wait()
        changed.clear()
        if not dispatcher.draining:
            await health.set_all(serving=bool(dispatcher.engines))


@asynccontextmanager
async def _background(work: Coroutine[object, object, None]) -> AsyncIterator[None]:
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


if __name__ == "__main__":
    main_entry("gateway_svc", GatewaySettings, serve)
