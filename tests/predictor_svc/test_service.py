"""The service over real gRPC in this process, with the tiny model."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest

from predictor_svc.batcher import BatchLimits
from predictor_svc.config import PredictorSettings
from predictor_svc.encoder import load_encoder
from predictor_svc.metrics import Reporter
from predictor_svc.model_dir import open_model_dir
from predictor_svc.pipeline import Pipeline
from predictor_svc.service import PredictorService, ServedModel
from predictor_svc.session import CPU, Session
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import server
from ssjf.wire.channel import connect
from ssjf.wire.errors import ErrorDetails, decode

if TYPE_CHECKING:
    from ssjf.predictor.v1.predictor_pb2_grpc import PredictorServiceAsyncStub

NAME = "ssjf.predictor.v1.PredictorService"
MAX_ITEMS = 8


@dataclass(frozen=True)
class Running:
    stub: PredictorServiceAsyncStub
    service: PredictorService
    revision: str


@asynccontextmanager
async def running(model_dir: Path, limits: BatchLimits) -> AsyncIterator[Running]:
    model = open_model_dir(model_dir)
    config = model.manifest.config
    session = Session(model.graph, "cpu", 1)
    encoder = load_encoder(model.tokenizer, config.max_input_tokens)
    async with Pipeline(encoder, session, config, limits, Reporter()) as pipeline:
        service = PredictorService(pipeline, ServedModel(model.manifest, CPU, MAX_ITEMS))
        listening = await server.listen(
            PredictorSettings(port=0),
            {
                NAME: lambda to: predictor_pb2_grpc.add_PredictorServiceServicer_to_server(
                    service, to
                )
            },
        )
        async with connect(listening.address) as channel:
            stub = predictor_pb2_grpc.PredictorServiceStub(channel)
            yield Running(stub, service, model.manifest.revision)
        await listening.server.stop(None)


@pytest.fixture
async def predictor(tiny_model_dir: Path) -> AsyncIterator[Running]:
    async with running(tiny_model_dir, BatchLimits(4, 0.001, 64)) as it:
        yield it


def item(prompt: str, max_tokens: int | None = None) -> predictor_pb2.PredictItem:
    return predictor_pb2.PredictItem(prompt=prompt, max_tokens=max_tokens)


def request(*items: predictor_pb2.PredictItem) -> predictor_pb2.PredictRequest:
    return predictor_pb2.PredictRequest(items=items)


async def refused(predictor: Running, bad: predictor_pb2.PredictRequest) -> ErrorDetails:
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await predictor.stub.Predict(bad, timeout=10)
    return decode(raised.value)


async def test_predictions_come_in_the_order_of_the_items(predictor: Running) -> None:
    short, essay = "One word: what is number 3?", "Write an essay about topic 3."
    response = await predictor.stub.Predict(request(item(essay), item(short), item(essay)))
    first, second, third = response.predictions
    assert response.revision == predictor.revision
    assert first.expected_tokens > second.expected_tokens
    assert first.rank_score > second.rank_score
    assert first.expected_tokens == pytest.approx(third.expected_tokens, rel=1e-4)
    assert [q.probability for q in first.quantiles] == pytest.approx([0.1, 0.5, 0.9])


async def test_a_prediction_stays_within_max_tokens(predictor: Running) -> None:
    response = await predictor.stub.Predict(request(item("Write an essay about topic 1.", 5)))
    (prediction,) = response.predictions
    assert 1 <= prediction.expected_tokens <= 5
    assert all(1 <= quantile.tokens <= 5 for quantile in prediction.quantiles)


async def test_earlier_turns_are_read(predictor: Running) -> None:
    turn = predictor_pb2.Turn(role=predictor_pb2.TURN_ROLE_USER, content="an essay please")
    with_turn = predictor_pb2.PredictItem(prompt="go on", turns=[turn])
    response = await predictor.stub.Predict(request(item("go on"), with_turn))
    one, other = response.predictions
    assert one.rank_score != other.rank_score


async def test_concurrent_calls_each_get_their_answers(predictor: Running) -> None:
    calls = [predictor.stub.Predict(request(*[item(f"p {n}")] * (1 + n % 3))) for n in range(20)]
    responses = await asyncio.gather(*calls)
    assert [len(each.predictions) for each in responses] == [1 + n % 3 for n in range(20)]


async def test_the_info_names_model_provider_and_limits(predictor: Running) -> None:
    info = await predictor.stub.GetPredictorInfo(predictor_pb2.GetPredictorInfoRequest())
    assert info.revision == predictor.revision
    assert (info.task, info.model) == ("distribution", "tiny-llm")
    assert info.execution_provider == CPU
    assert (info.max_input_tokens, info.max_items) == (32, MAX_ITEMS)


async def test_every_violation_of_a_request_is_listed(predictor: Running) -> None:
    bad = request(
        item(""),
        item("x" * (1024 * 1024 + 1)),
        item("fine", 0),
        predictor_pb2.PredictItem(prompt="fine", turns=[predictor_pb2.Turn(content="who?")]),
        predictor_pb2.PredictItem(prompt="fine", model="m" * 300),
    )
    error = await refused(predictor, bad)
    assert error.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in error.violations] == [
        "items[0].prompt",
        "items[1].prompt",
        "items[2].max_tokens",
        "items[3].turns[0].role",
        "items[4].model",
    ]


@pytest.mark.parametrize("count", [0, MAX_ITEMS + 1])
async def test_too_few_or_too_many_items_are_refused(predictor: Running, count: int) -> None:
    error = await refused(predictor, request(*[item("hello")] * count))
    assert [violation.field for violation in error.violations] == ["items"]


async def test_a_prompt_of_exactly_a_mebibyte_is_read(predictor: Running) -> None:
    response = await predictor.stub.Predict(request(item("word " * 209_715)))
    assert len(response.predictions) == 1


async def test_a_full_queue_is_refused_with_a_time_to_retry(tiny_model_dir: Path) -> None:
    async with running(tiny_model_dir, BatchLimits(4, 0.001, 2)) as predictor:
        error = await refused(predictor, request(*[item("hello")] * 3))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.reason == "OVERLOADED"
        assert error.retry_after_s is not None
        assert len((await predictor.stub.Predict(request(item("hello")))).predictions) == 1


async def test_draining_lets_calls_finish_and_refuses_new_ones(tiny_model_dir: Path) -> None:
    async with running(tiny_model_dir, BatchLimits(64, 0.3, 64)) as predictor:
        early = asyncio.ensure_future(predictor.stub.Predict(request(item("hello"))))
        await asyncio.sleep(0.1)
        draining = asyncio.create_task(predictor.service.drain())
        await asyncio.sleep(0)
        error = await refused(predictor, request(item("too late")))
        assert error.reason == "DRAINING"
        assert len((await early).predictions) == 1
        await draining
