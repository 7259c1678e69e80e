"""Composition root of the gateway: `python -m gateway_svc --help`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass

from gateway_svc.assembly import Assembled, assemble
from gateway_svc.config import GatewaySettings
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.fleet import Fleet
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import metrics, server
from ssjf.wire.health import Health
from ssjf.wire.run import main_entry

SERVICE = gateway_pb2.DESCRIPTOR.services_by_name["GatewayService"].full_name


async def serve(settings: GatewaySettings) -> None:
    """Runs the gateway until a signal has stopped it."""
    stop_metrics = metrics.serve(settings.metrics_port, settings.metrics_host)
    async with running_gateway(settings) as gateway:
        await server.serve_until_signal(
            gateway.listening, gateway.parts.admission.drain, settings.drain_timeout_s
        )
    stop_metrics()


@dataclass(frozen=True, slots=True)
class Gateway:
    """A gateway that listens, with the parts that others look into."""

    listening: server.Listening
    parts: Assembled

    @property
    def dispatcher(self) -> Dispatcher:
        """The queue."""
        return self.parts.dispatcher

    @property
    def fleet(self) -> Fleet:
        """The engines."""
        return self.parts.fleet


@asynccontextmanager
async def running_gateway(settings: GatewaySettings) -> AsyncIterator[Gateway]:
    """The whole gateway in this process; stops it on the way out, without a drain."""
    engines_changed = asyncio.Event()
    parts = assemble(settings, engines_changed.set)
    listening = await server.listen(
        settings,
        {
            SERVICE: lambda to: gateway_pb2_grpc.add_GatewayServiceServicer_to_server(
                parts.service, to
            )
        },
        parts.tenants.table,
    )
    async with AsyncExitStack() as stack:
        for work in (
            _report_readiness(listening.health, parts, engines_changed),
            parts.watch.run(),
            parts.tenants.follow(parts.dispatcher.set_tenants),
            parts.fleet.run(),
        ):
            await stack.enter_async_context(_background(work))
        try:
            yield Gateway(listening, parts)
        finally:
            await listening.server.stop(grace=0)
    if parts.predictor is not None:
        await parts.predictor.close()


async def _report_readiness(health: Health, parts: Assembled, changed: asyncio.Event) -> None:
    """SERVING while an engine is connected; the drain says NOT_SERVING for good."""
    while True:
        await changed.wait()
        changed.clear()
        if not parts.admission.draining:
            await health.set_all(serving=bool(parts.dispatcher.engines))


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
