from __future__ import annotations

from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import grpc
import pytest

from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, server
from ssjf.wire.errors import Draining
from tests.wire.conftest import Handle, Serve


@cache
def c_core() -> bytes:
    """The C core, in which every option that it knows is a string."""
    folder = Path(grpc.__file__).parent / "_cython"
    (library,) = [
        path
        for path in folder.iterdir()
        if path.name.startswith("cygrpc.") and path.suffix in (".so", ".pyd")
    ]
    return library.read_bytes()


def is_known(option: str) -> bool:
    return option.encode() + b"\0" in c_core()


@pytest.mark.parametrize("option", [name for name, _ in channel.BALANCED])
def test_the_c_core_knows_every_option_of_our_channels(option: str) -> None:
    assert is_known(option)


@pytest.mark.parametrize("option", [name for name, _ in server.OPTIONS])
def test_the_c_core_knows_every_option_of_our_servers(option: str) -> None:
    assert is_known(option)


def test_an_option_that_does_not_exist_would_be_noticed() -> None:
    assert not is_known("grpc.http2.min_recv_ping_interval_without_data_ms")


@pytest.mark.parametrize(
    ("addresses", "target"),
    [
        ("predictor:1", "predictor:1"),
        ("[::1]:1", "[::1]:1"),
        ("10.0.0.1:1, 10.0.0.2:2", "ipv4:10.0.0.1:1,10.0.0.2:2"),
        (" predictor:1 ,", "predictor:1"),
        ("[::1]:1,[::1]:2", "ipv6:[::1]:1,[::1]:2"),
    ],
)
def test_several_addresses_are_one_target(addresses: str, target: str) -> None:
    assert channel.balanced_target(addresses) == target


@pytest.mark.parametrize(
    ("addresses", "says"),
    [
        (" ,", "at least one host:port"),
        ("here:1,there:2", "IP:port each, or one name"),
        ("10.0.0.1:1,[::1]:1", "all IPv4, or all IPv6"),
    ],
)
def test_addresses_that_are_no_target_are_refused(addresses: str, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        channel.balanced_target(addresses)


def named(name: str) -> Handle:
    async def answer(_request: Any, _context: Any) -> Any:
        return gateway_pb2.GetServerInfoResponse(version=name)

    return answer


async def drains(_request: Any, _context: Any) -> Any:
    raise Draining("shutting down", retry_after_s=1.0)


async def names(connection: grpc.aio.Channel, calls: int) -> list[str]:
    stub = gateway_pb2_grpc.GatewayServiceStub(connection)
    request = gateway_pb2.GetServerInfoRequest()
    return [(await stub.GetServerInfo(request, timeout=10)).version for _ in range(calls)]


async def both_answer(connection: grpc.aio.Channel) -> None:
    while set(await names(connection, 2)) != {"a", "b"}:
        pass


async def one_answers(connection: grpc.aio.Channel) -> None:
    while True:
        with suppress(grpc.aio.AioRpcError):
            await names(connection, 1)
            return


def joined(*servers: server.Listening) -> str:
    return ",".join(each.address for each in servers)


async def test_equal_servers_are_asked_in_turn(serve: Serve) -> None:
    addresses = joined(await serve(named("a")), await serve(named("b")))
    async with channel.connect_balanced(addresses) as connection:
        await both_answer(connection)  # the second connection may take a moment longer
        seen = await names(connection, 10)
    assert seen.count("a") == seen.count("b") == 5


async def test_a_server_that_goes_costs_no_call(serve: Serve) -> None:
    first, second = await serve(named("a")), await serve(named("b"))
    async with channel.connect_balanced(joined(first, second)) as connection:
        await both_answer(connection)
        await first.server.stop(grace=0)
        assert await names(connection, 10) == ["b"] * 10


async def test_a_server_that_drains_hands_its_calls_to_the_other(serve: Serve) -> None:
    addresses = joined(await serve(drains), await serve(named("b")))
    async with channel.connect_balanced(addresses) as connection:
        await one_answers(connection)  # until then there may be no other to turn to
        assert await names(connection, 10) == ["b"] * 10


async def test_one_server_that_drains_says_so(serve: Serve) -> None:
    async with channel.connect_balanced((await serve(drains)).address) as connection:
        with pytest.raises(grpc.aio.AioRpcError, match="shutting down"):
            await names(connection, 1)
