"""The predictor: gone and back, and with a new model."""

from __future__ import annotations

import asyncio
from pathlib import Path

from ssjf.gateway.v1 import gateway_pb2
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire.channel import connect
from ssjf_cli.stack import Stack, StackOptions
from tests.conftest import ENGINE_FLAGS, PREDICTOR_FLAGS, StartStack
from tests.predictor_svc.small_model import Graph, write_model
from tests.stack.generation import (
    Answer,
    Client,
    connected,
    request,
)

PLACES = ENGINE_FLAGS["max_sequences"]
FLAGS: dict[str, str | int | float | bool] = {**PREDICTOR_FLAGS, "provider": "cpu"}


async def test_no_request_fails_when_the_predictor_is_killed_under_load(
    client: Client, stack: Stack
) -> None:
    before = (await client.queue()).counters
    load = asyncio.create_task(client.generate_all(_load(4 * PLACES)))
    await client.until(lambda s: s.counters.finished > before.finished)
    try:
        stack.kill("predictor")
        after_kill = await client.generate_all(_load(2))
        answers: list[Answer] = [*await load, *after_kill]
        counters = (await client.queue()).counters
        degraded = (await client.info()).predictor.degraded
    finally:
        await asyncio.to_thread(stack.restart, "predictor")
    assert {answer.kinds[-1] for answer in answers} == {"finished"}
    priors = [a.finished.length_prediction.source for a in after_kill]
    assert priors == [gateway_pb2.PREDICTION_SOURCE_PRIOR] * 2
    assert counters.failed == before.failed
    assert counters.predictions_failed > before.predictions_failed
    assert degraded


async def test_one_of_two_predictors_goes_and_predictions_stay(
    stack: Stack, start_stack: StartStack
) -> None:
    other = start_stack(StackOptions(engine=None, predictor=FLAGS, gateway=None))
    gateway: dict[str, str | int | float | bool] = {
        "predictor": f"{stack.predictor_address},{other.predictor_address}",
        "prediction_budget_ms": 5000,
        "skip_idle_predictions": False,
    }
    behind = start_stack(
        StackOptions(engine={**ENGINE_FLAGS, "device": "cpu"}, predictor=None, gateway=gateway)
    )
    async with connected(behind.gateway_address) as client:
        before = await client.generate_all(_load(PLACES))
        load = asyncio.create_task(client.generate_all(_load(4 * PLACES)))
        await client.until(lambda s: s.counters.finished > PLACES)
        other.kill("predictor")
        answers = [*before, *await load, *await client.generate_all(_load(PLACES))]
        counters = (await client.queue()).counters
    sources = {answer.finished.length_prediction.source for answer in answers}
    assert sources == {gateway_pb2.PREDICTION_SOURCE_MODEL}
    assert counters.predictions_failed == 0


async def test_predictions_come_back_with_the_predictor(client: Client, stack: Stack) -> None:
    await asyncio.to_thread(stack.restart, "predictor")
    while True:
        answer = await client.generate(request(max_tokens=1))
        if answer.finished.length_prediction.source == gateway_pb2.PREDICTION_SOURCE_MODEL:
            break
    assert not (await client.info()).predictor.degraded


async def test_a_new_model_is_taken_over_under_load_and_a_broken_one_is_not(
    client: Client, stack: Stack, tmp_path: Path
) -> None:
    write_model(tmp_path, "revision-1")
    watching = FLAGS | {"model_dir": str(tmp_path), "watch_interval_s": 0.05}
    await asyncio.to_thread(stack.restart, "predictor", watching)
    try:
        load = asyncio.create_task(client.generate_all(_load(2 * PLACES)))
        revisions = await _revisions_through_a_swap(stack.predictor_address, tmp_path)
        answers = await load
    finally:
        await asyncio.to_thread(stack.restart, "predictor", FLAGS)
    assert {answer.kinds[-1] for answer in answers} == {"finished"}
    assert revisions == ["revision-1", "revision-3"]


async def _revisions_through_a_swap(address: str, folder: Path) -> list[str]:
    """The revisions that answered calls without a pause, while two new models arrive."""
    seen: list[str] = []
    async with connect(address) as channel:
        stub = predictor_pb2_grpc.PredictorServiceStub(channel)
        await channel.channel_ready()
        write_model(folder, "revision-2", Graph(value=float("nan")))
        for number in range(100_000):
            if number == 50:
                write_model(folder, "revision-3", Graph(seed=3))
            item = predictor_pb2.PredictItem(prompt=f"prompt {number}")
            response = await stub.Predict(predictor_pb2.PredictRequest(items=[item]), timeout=10)
            if response.revision not in seen:
                seen.append(response.revision)
            if "revision-3" in seen:
                break
    return seen


def _load(count: int) -> list[gateway_pb2.GenerateRequest]:
    return [request(f"Say the number {n}.", max_tokens=6) for n in range(count)]
