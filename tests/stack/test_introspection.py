"""What the services tell of themselves."""

from __future__ import annotations

from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from ssjf.engine.v1 import engine_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire import channel
from ssjf_cli.process import ServiceName
from ssjf_cli.stack import Stack
from tests.conftest import ENGINE_FLAGS
from tests.stack.generation import (
    GATEWAY,
    Client,
    request,
)

PLACES = ENGINE_FLAGS["max_sequences"]
SERVICE_NAMES: dict[ServiceName, str] = {
    "gateway": GATEWAY,
    "predictor": "ssjf.predictor.v1.PredictorService",
    "engine": "ssjf.engine.v1.EngineService",
}


async def test_the_queue_shows_what_waits_and_what_runs(client: Client) -> None:
    await client.occupy(PLACES)
    await client.open(request(request_id="waiting-one", max_tokens=3)).until("queued")
    snapshot = await client.until(lambda snapshot: snapshot.waiting_count == 1)
    (waiting,) = snapshot.waiting
    assert (waiting.request_id, waiting.engine_id) == ("waiting-one", "")
    assert waiting.priority == gateway_pb2.PRIORITY_CLASS_STANDARD
    assert len(snapshot.running) == PLACES
    assert {entry.engine_id for entry in snapshot.running} == {
        (await client.info()).engines[0].engine_id
    }


async def test_server_info_tells_what_is_served_and_how(client: Client) -> None:
    info = await client.info()
    assert (info.policy, info.benchmark) == (gateway_pb2.POLICY_SSJF, False)
    assert info.batching_mode == engine_pb2.BATCHING_MODE_CONTINUOUS
    assert (info.version, info.model) != ("", "")
    (engine,) = info.engines
    assert (engine.limits.max_sequences, engine.model.device) == (PLACES, "cpu")
    assert info.limits.max_context_tokens == engine.limits.max_context_tokens


@pytest.mark.parametrize("name", ["gateway", "predictor", "engine"])
async def test_every_service_tells_its_health_by_name(stack: Stack, name: ServiceName) -> None:
    address = stack.process(name).service.address
    async with channel.connect(address) as connection:
        stub: Any = health_pb2_grpc.HealthStub(connection)
        for service in ("", SERVICE_NAMES[name]):
            answer = await stub.Check(health_pb2.HealthCheckRequest(service=service))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await stub.Check(health_pb2.HealthCheckRequest(service="nobody"))
    assert caught.value.code() is grpc.StatusCode.NOT_FOUND


@pytest.mark.parametrize("name", ["gateway", "predictor", "engine"])
async def test_every_service_is_found_by_reflection(stack: Stack, name: ServiceName) -> None:
    async with channel.connect(stack.process(name).service.address) as connection:
        connect: Any = reflection_pb2_grpc.ServerReflectionStub  # typed for blocking channels
        call = connect(connection).ServerReflectionInfo()
        await call.write(reflection_pb2.ServerReflectionRequest(list_services=""))
        listed = (await call.read()).list_services_response.service
        call.cancel()
    assert {SERVICE_NAMES[name], "grpc.health.v1.Health"} <= {entry.name for entry in listed}
