"""Builds, listens and shuts down a service's grpc.aio server.

Shutdown drains first: health goes NOT_SERVING and the service refuses new work
while the listener stays open, accepted work finishes, then the server stops.
`server.stop(grace)` alone would cut new calls off without a reason.
"""

from __future__ import annotations

import asyncio
import ipaddress
import signal
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

import grpc
from grpc_health.v1 import health, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from ssjf.wire import logs
from ssjf.wire.auth import Authentication, TokenTable
from ssjf.wire.channel import MAX_MESSAGE_BYTES, MAX_METADATA_BYTES
from ssjf.wire.health import Health
from ssjf.wire.interceptors import Boundary
from ssjf.wire.run import StartupError
from ssjf.wire.settings import ServiceSettings

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    # Without this a second process binds the same port and takes half of the calls.
    ("grpc.so_reuseport", 0),
    # Our own clients ping every second; the default allows one ping in five minutes.
    ("grpc.http2.min_ping_interval_without_data_ms", 500),
    ("grpc.http2.max_ping_strikes", 0),
    ("grpc.keepalive_permit_without_calls", 1),
    # Calls that came faster than the event loop takes them: beyond 1,000 the default cancels
    # some without a reason. They wait for a typed refusal instead.
    ("grpc.server.max_pending_requests", 50_000),
    ("grpc.server.max_pending_requests_hard_limit", 100_000),
    # A client that vanished without a word is noticed in about 25 s.
    ("grpc.keepalive_time_ms", 20_000),
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.http2.ping_timeout_ms", 5_000),
)

Services = Mapping[str, Callable[[grpc.aio.Server], None]]


@dataclass(frozen=True, slots=True)
class Listening:
    """A server that has its port."""

    server: grpc.aio.Server
    host: str
    port: int
    health: Health

    @property
    def address(self) -> str:
        """``host:port``, for clients."""
        return f"{self.host}:{self.port}"


async def listen(
    settings: ServiceSettings, services: Services, tokens: TokenTable | None = None
) -> Listening:
    """Starts a server of `services` (full name → adds its servicer), all NOT_SERVING.

    Health and reflection come with it. With `tokens`, everything but health needs one of
    them. Raises StartupError where the address cannot be bound, or where it is not loopback
    and `insecure_bind` is off.
    """
    check_address(settings)
    guards = (Boundary(),) if tokens is None else (Boundary(), Authentication(tokens))
    server = grpc.aio.server(interceptors=guards, options=OPTIONS)
    for add in services.values():
        add(server)
    states = Health(*services)
    health_pb2_grpc.add_HealthServicer_to_server(states.servicer, server)
    reflection.enable_server_reflection(
        (*services, health.SERVICE_NAME, reflection.SERVICE_NAME), server
    )
    await states.start()
    address = f"{settings.host}:{settings.port}"
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise StartupError(f"cannot listen on {address}: is the port in use?") from error
    await server.start()
    return Listening(server, settings.host, port, states)


def check_address(settings: ServiceSettings) -> None:
    """Raises StartupError where `listen` would; for services that load for long before it."""
    _check_loopback(settings)
    if settings.port == 0:
        return
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        # Tried here first: when gRPC fails to bind, its core logs a line of its own.
        socket.create_server((settings.host, settings.port), family=family).close()
    except OSError as error:
        address = f"{settings.host}:{settings.port}"
        raise StartupError(f"cannot listen on {address}: {error.strerror}") from error


def _check_loopback(settings: ServiceSettings) -> None:
    if settings.insecure_bind or settings.host == "localhost":
        return
    try:
        loopback = ipaddress.ip_address(settings.host).is_loopback
    except ValueError:
        loopback = False
    if not loopback:
        raise StartupError(
            f"--host {settings.host} is not loopback and the traffic is plain text; "
            "set --insecure-bind to allow it"
        )


async def serve_until_signal(
    listening: Listening, drain: Callable[[], Awaitable[None]], drain_timeout_s: float
) -> None:
    """Returns after SIGTERM or SIGINT, once `drain()` is done or `drain_timeout_s` has passed.

    A second signal stops at once. `drain` refuses new work and returns when what was
    accepted has ended.
    """
    log = logs.get_logger()
    signals: asyncio.Queue[int] = asyncio.Queue()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, signals.put_nowait, number)
    log.info("serving", address=listening.address)
    await signals.get()
    log.info("draining", timeout_s=drain_timeout_s)
    await listening.health.set_all(serving=False)
    await _first_of(drain(), signals.get(), drain_timeout_s)
    await listening.health.servicer.enter_graceful_shutdown()
    await listening.server.stop(grace=0.2)
    log.info("stopped")


async def _first_of(drain: Awaitable[None], hurry: Awaitable[int], timeout_s: float) -> None:
    tasks: list[asyncio.Future[Any]] = [asyncio.ensure_future(drain), asyncio.ensure_future(hurry)]
    done, pending = await asyncio.wait(
        tasks, timeout=timeout_s, return_when=asyncio.FIRST_COMPLETED
    )
    for task in pending:
        task.cancel()
    await asyncio.gather(*pending, return_exceptions=True)
    for task in done:
        task.result()
