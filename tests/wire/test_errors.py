from __future__ import annotations

from typing import Any

import grpc
import pytest

from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import channel, errors
from tests.wire.conftest import Serve

EXAMPLES = (
    errors.SsjfError("it failed"),
    errors.InvalidRequest([errors.Violation("sampling.top_p", "must be in (0, 1], is 0")]),
    errors.Unauthenticated("a bearer token is needed"),
    errors.PermissionDenied("this method needs an admin's token"),
    errors.UnknownModel("no engine serves 'gpt'"),
    errors.DuplicateRequest("request 'a' is in the gateway"),
    errors.AlreadyServing("another gateway is connected"),
    errors.IncompatiblePeer("schema revision 2, not 1"),
    errors.Overloaded("predictor", "1024 items wait", retry_after_s=0.25),
    errors.QueueFull("queue", "1024 requests wait", retry_after_s=1.5),
    errors.KvExhausted("out of memory", retry_after_s=1.0),
    errors.SlowConsumer("the client stopped reading"),
    errors.NoEngine("no engine is connected", retry_after_s=1.0),
    errors.EngineLost(17),
    errors.Draining("the gateway is shutting down", retry_after_s=2.0),
    errors.Interrupted("the call was interrupted", retry_after_s=1.0),
    errors.DeadlinePassed("the deadline passed"),
    errors.DeadlineTooSoon("12 s are needed", retry_after_s=3.0),
    errors.QueueTimeout("waited 600 s", retry_after_s=5.0),
    errors.NumericFault("NaN in the logits"),
    errors.Internal("internal error"),
)


def subclasses(kind: type[errors.SsjfError]) -> set[type[errors.SsjfError]]:
    return {kind}.union(*(subclasses(child) for child in kind.__subclasses__()))


async def failing_call(serve: Serve, error: Exception) -> grpc.aio.AioRpcError:
    async def handle(_request: Any, _context: Any) -> None:
        raise error

    listening = await serve(handle)
    async with channel.connect(listening.address) as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetServerInfo(gateway_pb2.GetServerInfoRequest())
    return caught.value


def test_every_class_has_an_example_here() -> None:
    assert {type(example) for example in EXAMPLES} == subclasses(errors.SsjfError)


def test_reasons_tell_the_classes_apart() -> None:
    kinds = subclasses(errors.SsjfError) - {errors.SsjfError}
    assert len({kind.reason for kind in kinds}) == len(kinds)


@pytest.mark.parametrize("error", EXAMPLES, ids=lambda e: type(e).__name__)
async def test_status_and_details_survive_the_wire(serve: Serve, error: errors.SsjfError) -> None:
    details = errors.decode(await failing_call(serve, error))
    assert (details.code, details.reason) == (error.code, error.reason)
    assert details.message == error.message
    assert details.retry_after_s == error.retry_after_s
    assert len(details.metadata["request_id"]) == 32


async def test_violations_arrive_one_by_one(serve: Serve) -> None:
    violations = [errors.Violation("a", "is wrong"), errors.Violation("b[3].c", "is worse")]
    details = errors.decode(await failing_call(serve, errors.InvalidRequest(violations)))
    assert list(details.violations) == violations


async def test_many_long_violations_stay_within_what_trailers_carry(serve: Serve) -> None:
    violations = [errors.Violation(f"field[{i}]", "x" * 5_000) for i in range(1_000)]
    details = errors.decode(await failing_call(serve, errors.InvalidRequest(violations)))
    assert details.code is grpc.StatusCode.INVALID_ARGUMENT
    assert len(details.violations) == errors.MAX_VIOLATIONS


async def test_a_met_limit_is_named(serve: Serve) -> None:
    error = errors.QueueFull("queue", "1024 requests wait", retry_after_s=1.0)
    details = errors.decode(await failing_call(serve, error))
    assert details.quota == (("queue", "1024 requests wait"),)


async def test_a_lost_engine_tells_how_much_was_sent(serve: Serve) -> None:
    details = errors.decode(await failing_call(serve, errors.EngineLost(17)))
    assert details.metadata["tokens_sent"] == "17"


async def test_decode_takes_an_error_without_details() -> None:
    async with channel.connect("127.0.0.1:1") as connection:
        stub = gateway_pb2_grpc.GatewayServiceStub(connection)
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.GetServerInfo(gateway_pb2.GetServerInfoRequest())
    details = errors.decode(caught.value)
    assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "")


def test_decode_refuses_what_is_not_a_calls_error() -> None:
    with pytest.raises(TypeError, match="not the error of a call"):
        errors.decode(grpc.RpcError())
