from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import auth, channel, errors, server
from ssjf.wire.auth import Principal, TokenTable
from tests.wire.conftest import GATEWAY, Handle, Handlers, settings

TOKEN = "a-token-of-enough-characters"  # noqa: S105 (made up)
ADMIN = "another-token-of-an-operator"


def table() -> TokenTable:
    made = TokenTable()
    made.replace(
        {
            auth.digest(TOKEN): Principal("acme"),
            auth.digest(ADMIN): Principal("operators", admin=True),
        }
    )
    return made


async def who(_request: Any, _context: Any) -> Any:
    return gateway_pb2.GetServerInfoResponse(version=auth.current.get().tenant)


async def operator_only(_request: Any, _context: Any) -> Any:
    auth.require_admin()
    return gateway_pb2.GetServerInfoResponse(version="let in")


@contextlib.asynccontextmanager
async def guarded(
    handle: Handle = who, tokens: TokenTable | None = None
) -> AsyncIterator[grpc.aio.Channel]:
    handlers: Any = Handlers(handle)
    services = {GATEWAY: partial(gateway_pb2_grpc.add_GatewayServiceServicer_to_server, handlers)}
    listening = await server.listen(settings(), services, tokens or table())
    try:
        async with channel.connect(listening.address) as connection:
            yield connection
    finally:
        await listening.server.stop(grace=0)


async def ask(connection: grpc.aio.Channel, *metadata: tuple[str, str]) -> str:
    stub = gateway_pb2_grpc.GatewayServiceStub(connection)
    request = gateway_pb2.GetServerInfoRequest()
    answer = await stub.GetServerInfo(request, metadata=metadata, timeout=10)
    return str(answer.version)


async def refusal(connection: grpc.aio.Channel, *metadata: tuple[str, str]) -> errors.ErrorDetails:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await ask(connection, *metadata)
    return errors.decode(caught.value)


async def test_a_known_token_tells_the_handler_who_calls() -> None:
    async with guarded() as connection:
        assert await ask(connection, *auth.bearer(TOKEN)) == "acme"
        assert await ask(connection, *auth.bearer(ADMIN)) == "operators"


@pytest.mark.parametrize(
    "metadata",
    [
        (),
        auth.bearer("not-the-right-token-at-all"),
        (("authorization", TOKEN),),
        (("authorization", f"Basic {TOKEN}"),),
        (("authorization", "Bearer "),),
        (*auth.bearer(TOKEN), *auth.bearer(TOKEN)),
        (("token", TOKEN),),
    ],
    ids=["none", "wrong", "no scheme", "other scheme", "empty", "two", "other key"],
)
async def test_without_one_known_token_a_call_is_unauthenticated(metadata: Any) -> None:
    async with guarded() as connection:
        failure = await refusal(connection, *metadata)
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.UNAUTHENTICATED,
        "UNAUTHENTICATED",
    )
    assert failure.metadata["request_id"]
    assert TOKEN not in failure.message


async def test_a_stream_without_a_token_is_unauthenticated() -> None:
    async with guarded() as connection:
        call: Any = gateway_pb2_grpc.GatewayServiceStub(connection).Generate(
            gateway_pb2.GenerateRequest()
        )
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call.read()
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED


async def test_a_tenants_token_does_not_open_an_admins_method() -> None:
    async with guarded(operator_only) as connection:
        failure = await refusal(connection, *auth.bearer(TOKEN))
        assert await ask(connection, *auth.bearer(ADMIN)) == "let in"
    assert (failure.code, failure.reason) == (
        grpc.StatusCode.PERMISSION_DENIED,
        "PERMISSION_DENIED",
    )


async def test_health_is_open_and_reflection_is_not() -> None:
    async def reflect(connection: grpc.aio.Channel, *metadata: tuple[str, str]) -> list[str]:
        blocking: Any = connection  # the stubs' types know no aio channel
        stub: Any = reflection_pb2_grpc.ServerReflectionStub(blocking)
        request = reflection_pb2.ServerReflectionRequest(list_services="")
        call = stub.ServerReflectionInfo(iter([request]), metadata=metadata)
        return [each.name for each in (await call.read()).list_services_response.service]

    async with guarded() as connection:
        health: Any = health_pb2_grpc.HealthStub(connection)
        answer = await health.Check(health_pb2.HealthCheckRequest())
        assert answer.status == health_pb2.HealthCheckResponse.NOT_SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await reflect(connection)
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert GATEWAY in await reflect(connection, *auth.bearer(TOKEN))


async def test_an_unknown_method_is_unimplemented() -> None:
    async with guarded() as connection:
        call: Any = connection.unary_unary(f"/{GATEWAY}/Guess")
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(b"", metadata=auth.bearer(TOKEN), timeout=10)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


async def test_another_table_takes_effect_with_the_next_call() -> None:
    tokens = table()
    async with guarded(tokens=tokens) as connection:
        assert await ask(connection, *auth.bearer(TOKEN)) == "acme"
        tokens.replace({auth.digest(ADMIN): Principal("acme")})
        assert (await refusal(connection, *auth.bearer(TOKEN))).reason == "UNAUTHENTICATED"
        assert await ask(connection, *auth.bearer(ADMIN)) == "acme"


def test_an_empty_table_lets_no_one_in() -> None:
    with pytest.raises(errors.Unauthenticated):
        TokenTable().authenticate(auth.bearer(TOKEN))


def test_a_table_shows_neither_tokens_nor_digests() -> None:
    shown = repr(table())
    assert TOKEN not in shown
    assert auth.digest(TOKEN).hex() not in shown
    assert str(auth.digest(TOKEN)) not in shown


def test_a_file_may_name_a_token_by_its_digest() -> None:
    assert auth.parse_token(TOKEN) == auth.digest(TOKEN)
    assert auth.parse_token(f"sha256:{auth.digest(TOKEN).hex()}") == auth.digest(TOKEN)


@pytest.mark.parametrize("written", ["", "short", "with a space in it", "sha256:ab", "x" * 1025])
def test_what_is_no_token_is_refused_without_being_shown(written: str) -> None:
    with pytest.raises(ValueError, match=r"token has|sha256") as caught:
        auth.parse_token(written)
    assert len(written) < 3 or written not in str(caught.value)


def test_without_a_table_the_caller_is_the_one_tenant() -> None:
    assert auth.current.get() == Principal("", admin=True)
    auth.require_admin()
