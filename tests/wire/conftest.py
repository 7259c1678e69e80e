"""A real server on the loopback address whose handlers the test provides."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from typing import Any

import pytest

from ssjf.engine.v1 import engine_pb2_grpc
from ssjf.gateway.v1 import gateway_pb2_grpc
from ssjf.wire import server
from ssjf.wire.settings import ServiceSettings

GATEWAY = "ssjf.gateway.v1.GatewayService"
ENGINE = "ssjf.engine.v1.EngineService"

Handle = Callable[[Any, Any], Awaitable[Any]]
Serve = Callable[[Handle], Awaitable[server.Listening]]


class Handlers:
    """Every method of the two services does what the test says."""

    def __init__(self, handle: Handle) -> None:
        self._handle = handle

    def __getattr__(self, method: str) -> Handle:
        return self._handle


def settings(**values: Any) -> ServiceSettings:
    return ServiceSettings(**{"host": "127.0.0.1", "port": 0, **values})


@pytest.fixture
async def serve() -> AsyncIterator[Serve]:
    started = []

    async def start(handle: Handle) -> server.Listening:
        handlers: Any = Handlers(handle)
        services = {
            GATEWAY: partial(gateway_pb2_grpc.add_GatewayServiceServicer_to_server, handlers),
            ENGINE: partial(engine_pb2_grpc.add_EngineServiceServicer_to_server, handlers),
        }
        started.append(await server.listen(settings(), services))
        return started[-1]

    yield start
    for listening in started:
        await listening.server.stop(grace=0)
