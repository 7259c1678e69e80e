from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import grpc
import pytest
import structlog

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, errors, logs, server
from tests.wire.conftest import ENGINE, GATEWAY, Serve

NOT_A_MESSAGE = b"\xff\xff\xff\xff"
SECRET = "postgres://user:hunter2@db"  # noqa: S105 (it must not leak)


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


async def details_of(call: Any, received: list[Any] | None = None) -> errors.ErrorDetails:
    """What a failing unary or streaming call tells its client; fills `received` before."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call if isinstance(call, grpc.aio.UnaryUnaryCall) else read_all(call, received))
    return errors.decode(caught.value)


async def read_all(call: Any, received: list[Any] | None) -> None:
    async for response in call:
        if received is not None:
            received.append(response)


async def unary(listening: server.Listening) -> errors.ErrorDetails:
    async with channel.connect(listening.address) as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        return await details_of(stub.GetServerInfo(gateway_pb2.GetServerInfoRequest(), timeout=10))


async def raw(listening: server.Listening, method: str, kind: str) -> errors.ErrorDetails:
    """Sends bytes that are no message of the method's type."""

    async def requests() -> Any:
        yield NOT_A_MESSAGE

    async with channel.connect(listening.address) as connection:
        call = getattr(connection, kind)(method)
        argument = requests() if kind.startswith("stream") else NOT_A_MESSAGE
        return await details_of(call(argument, timeout=10))


async def test_a_known_error_after_the_first_message_ends_the_stream_with_its_status(
    serve: Serve,
) -> None:
    async def handle(_request: Any, context: Any) -> None:
        await context.write(gateway_pb2.GenerateResponse())
        raise errors.EngineLost(1)

    listening = await serve(handle)
    async with channel.connect(listening.address) as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        received: list[Any] = []
        call = stub.Generate(gateway_pb2.GenerateRequest())
        assert (await details_of(call, received)).reason == "ENGINE_LOST"
    assert received == [gateway_pb2.GenerateResponse()]


async def test_an_unknown_exception_leaks_nothing_and_is_logged_whole(
    serve: Serve, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.configure("test", json=True)

    async def handle(_request: Any, _context: Any) -> None:
        raise ZeroDivisionError(SECRET)

    details = await unary(await serve(handle))
    assert (details.code, details.reason) == (grpc.StatusCode.INTERNAL, "INTERNAL")
    shown = f"{details.message} {dict(details.metadata)}"
    assert "ZeroDivision" not in shown
    assert SECRET not in shown
    logged = json.loads(capsys.readouterr().err)
    assert logged["request_id"] == details.metadata["request_id"]
    assert f"ZeroDivisionError: {SECRET}" in logged["exception"]


async def test_a_cancellation_of_our_own_becomes_unavailable_and_not_a_hang(serve: Serve) -> None:
    async def handle(_request: Any, _context: Any) -> None:
        raise asyncio.CancelledError

    details = await unary(await serve(handle))
    assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "INTERRUPTED")
    assert details.retry_after_s is not None


async def test_an_abort_of_the_handlers_own_keeps_its_status(serve: Serve) -> None:
    async def handle(_request: Any, context: Any) -> None:
        await context.abort(grpc.StatusCode.OUT_OF_RANGE, "too far")

    details = await unary(await serve(handle))
    assert (details.code, details.message) == (grpc.StatusCode.OUT_OF_RANGE, "too far")


@pytest.mark.parametrize(
    ("method", "kind"),
    [
        (f"/{GATEWAY}/GetServerInfo", "unary_unary"),
        (f"/{GATEWAY}/Generate", "unary_stream"),
        (f"/{ENGINE}/Serve", "stream_stream"),
    ],
)
async def test_bytes_that_are_no_message_are_an_invalid_argument(
    serve: Serve, method: str, kind: str
) -> None:
    async def handle(request: Any, _context: Any) -> None:
        async for _ in request:  # the streaming method reads; the others are never called
            raise AssertionError("no message came")

    details = await raw(await serve(handle), method, kind)
    assert (details.code, details.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )
    assert "DecodeError" not in details.message


async def test_an_unknown_method_is_unimplemented(serve: Serve) -> None:
    async def handle(_request: Any, _context: Any) -> None:
        raise AssertionError("not called")

    details = await raw(await serve(handle), f"/{GATEWAY}/Guess", "unary_unary")
    assert details.code is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("kind", ["server stream", "both ways"])
async def test_a_clients_cancellation_runs_the_handlers_clean_up_and_is_no_error(
    serve: Serve, capsys: pytest.CaptureFixture[str], kind: str
) -> None:
    logs.configure("test", json=True)
    running, cleaned_up = asyncio.Event(), asyncio.Event()

    async def handle(_request: Any, context: Any) -> None:
        try:
            message = gateway_pb2.GenerateResponse if kind == "server stream" else None
            await context.write((message or engine_pb2.ServeResponse)())
            running.set()
            await asyncio.Event().wait()
        finally:
            cleaned_up.set()

    listening = await serve(handle)
    async with channel.connect(listening.address) as connection:
        call: Any
        if kind == "server stream":
            stub = gateway_pb2_grpc.GatewayServiceStub(connection)
            call = stub.Generate(gateway_pb2.GenerateRequest())
        else:
            call = engine_pb2_grpc.EngineServiceStub(connection).Serve()
            await call.write(engine_pb2.ServeRequest())
        await running.wait()
        call.cancel()
        await asyncio.wait_for(cleaned_up.wait(), 10)
    assert "unhandled" not in capsys.readouterr().err


async def test_the_server_answers_after_every_kind_of_failure(serve: Serve) -> None:
    failures = [errors.Internal("known"), KeyError("unknown"), asyncio.CancelledError()]

    async def handle(_request: Any, _context: Any) -> Any:
        if failures:
            raise failures.pop()
        return gateway_pb2.GetServerInfoResponse(version="still here")

    listening = await serve(handle)
    while failures:
        await unary(listening)
    async with channel.connect(listening.address) as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        answer = await stub.GetServerInfo(gateway_pb2.GetServerInfoRequest())
    assert answer.version == "still here"


async def test_every_call_has_its_own_request_id(serve: Serve) -> None:
    async def handle(_request: Any, _context: Any) -> None:
        raise errors.Internal("no")

    listening = await serve(handle)
    seen = {(await unary(listening)).metadata["request_id"] for _ in range(3)}
    assert len(seen) == 3
