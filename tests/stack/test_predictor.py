"""The predictor, gone and back."""

from __future__ import annotations

import asyncio

from ssjf.gateway.v1 import gateway_pb2
from ssjf_cli.stack import Stack
from tests.conftest import ENGINE_FLAGS
from tests.stack.generation import (
    Answer,
    Client,
    request,
)

PLACES = ENGINE_FLAGS["max_sequences"]


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


async def test_predictions_come_back_with_the_predictor(client: Client, stack: Stack) -> None:
    await asyncio.to_thread(stack.restart, "predictor")
    while True:
        answer = await client.generate(request(max_tokens=1))
        if answer.finished.length_prediction.source == gateway_pb2.PREDICTION_SOURCE_MODEL:
            break
    assert not (await client.info()).predictor.degraded


def _load(count: int) -> list[gateway_pb2.GenerateRequest]:
    return [request(f"Say the number {n}.", max_tokens=6) for n in range(count)]
