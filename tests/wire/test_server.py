from __future__ import annotations

import asyncio
import os
import signal
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, server
from ssjf.wire.run import StartupError
from tests.wire.conftest import ENGINE, GATEWAY, Serve, settings

Status = health_pb2.HealthCheckResponse


async def answer(_request: Any, _context: Any) -> Any:
    return gateway_pb2.GetServerInfoResponse(version="here")


async def health_of(listening: server.Listening, service: str = "") -> int:
    async with channel.connect(listening.address) as connection:
        stub: Any = health_pb2_grpc.HealthStub(connection)
        response = await stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10)
        return int(response.status)


async def version(listening: server.Listening) -> str:
    async with channel.connect(listening.address) as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        return (await stub.GetServerInfo(gateway_pb2.GetServerInfoRequest(), timeout=10)).version


async def never() -> None:
    await asyncio.Event().wait()


@pytest.mark.parametrize("service", ["", GATEWAY, ENGINE])
async def test_a_server_starts_not_serving(serve: Serve, service: str) -> None:
    listening = await serve(answer)
    assert await health_of(listening, service) == Status.NOT_SERVING


async def test_one_services_state_leaves_the_others_alone(serve: Serve) -> None:
    listening = await serve(answer)
    await listening.health.set(GATEWAY, serving=True)
    assert await health_of(listening, GATEWAY) == Status.SERVING
    assert await health_of(listening, ENGINE) == Status.NOT_SERVING


async def test_watch_tells_of_every_change(serve: Serve) -> None:
    listening = await serve(answer)
    async with channel.connect(listening.address) as connection:
        stub: Any = health_pb2_grpc.HealthStub(connection)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=GATEWAY))
        seen = [(await watch.read()).status]
        for serving in (True, False):
            await listening.health.set(GATEWAY, serving=serving)
            seen.append((await watch.read()).status)
        watch.cancel()
    assert seen == [Status.NOT_SERVING, Status.SERVING, Status.NOT_SERVING]


async def test_reflection_lists_every_service(serve: Serve) -> None:
    listening = await serve(answer)
    async with channel.connect(listening.address) as connection:
        connect: Any = reflection_pb2_grpc.ServerReflectionStub  # typed for blocking channels
        stub = connect(connection)
        call = stub.ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = (await call.read()).list_services_response.service
        call.cancel()
    assert {service.name for service in listed} == {
        *(GATEWAY, ENGINE, "grpc.health.v1.Health"),
        "grpc.reflection.v1alpha.ServerReflection",
    }


async def test_a_port_in_use_is_one_line(serve: Serve) -> None:
    listening = await serve(answer)
    with pytest.raises(StartupError, match=f"cannot listen on 127.0.0.1:{listening.port}"):
        await server.listen(settings(port=listening.port), {})


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.7", "somewhere.example"])  # noqa: S104
async def test_plain_text_beyond_loopback_needs_a_flag(host: str) -> None:
    with pytest.raises(StartupError, match="--insecure-bind"):
        await server.listen(settings(host=host), {})


async def test_plain_text_beyond_loopback_is_possible_with_the_flag() -> None:
    listening = await server.listen(settings(host="0.0.0.0", insecure_bind=True), {})  # noqa: S104
    await listening.server.stop(grace=0)
    assert listening.port > 0


async def test_sigterm_drains_with_the_listener_open_and_then_stops(serve: Serve) -> None:
    listening = await serve(answer)
    await listening.health.set_all(serving=True)
    seen: list[object] = []

    async def drain() -> None:
        seen.append(await health_of(listening))
        seen.append(await version(listening))

    serving = asyncio.create_task(server.serve_until_signal(listening, drain, 10))
    await asyncio.sleep(0)  # its signal handlers are in place
    os.kill(os.getpid(), signal.SIGTERM)
    await serving
    assert seen == [Status.NOT_SERVING, "here"]
    with pytest.raises(grpc.aio.AioRpcError):
        await version(listening)


async def test_a_second_signal_stops_at_once(serve: Serve) -> None:
    listening = await serve(answer)
    draining = asyncio.Event()

    async def drain() -> None:
        draining.set()
        await never()

    serving = asyncio.create_task(server.serve_until_signal(listening, drain, 3600))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await draining.wait()
    os.kill(os.getpid(), signal.SIGINT)
    await asyncio.wait_for(serving, 30)


async def test_a_drain_that_takes_too_long_is_given_up(serve: Serve) -> None:
    listening = await serve(answer)
    serving = asyncio.create_task(server.serve_until_signal(listening, never, 0.05))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    await asyncio.wait_for(serving, 30)


async def test_a_drain_that_breaks_is_not_hidden(serve: Serve) -> None:
    listening = await serve(answer)

    async def drain() -> None:
        raise RuntimeError("broken")

    serving = asyncio.create_task(server.serve_until_signal(listening, drain, 10))
    await asyncio.sleep(0)
    os.kill(os.getpid(), signal.SIGTERM)
    with pytest.raises(RuntimeError, match="broken"):
        await serving
