"""The service over real gRPC in this process, with a small model."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
import pytest
from structlog.testing import capture_logs

from predictor_svc.batcher import BatchLimits
from predictor_svc.cache import OutputCache
from predictor_svc.config import PredictorSettings
from predictor_svc.encoder import InputForm
from predictor_svc.loaded import LoadedModel, load
from predictor_svc.metrics import Reporter
from predictor_svc.models import Models
from predictor_svc.pipeline import Pipeline
from predictor_svc.service import PredictorService
from predictor_svc.session import CPU
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import server
from ssjf.wire.channel import connect
from ssjf.wire.errors import ErrorDetails, decode
from tests.predictor_svc.small_model import (
    CLASSES,
    FORM,
    Graph,
    config,
    load_options,
    write_model,
)

if TYPE_CHECKING:
    from ssjf.predictor.v1.predictor_pb2_grpc import PredictorServiceAsyncStub

NAME = "ssjf.predictor.v1.PredictorService"
MAX_ITEMS = 8


@dataclass(frozen=True)
class Running:
    stub: PredictorServiceAsyncStub
    service: PredictorService
    models: Models


@asynccontextmanager
async def running(
    folder: Path,
    limits: BatchLimits = BatchLimits(4, 0.0, 64),  # noqa: B008 (frozen)
) -> AsyncIterator[Running]:
    def pipeline_of(model: LoadedModel) -> Pipeline:
        return Pipeline(model, limits, OutputCache(100), Reporter())

    models = Models(folder, partial(load, load_options(folder)), pipeline_of, Reporter())
    await models.start()
    async with models:
        service = PredictorService(models, MAX_ITEMS)
        listening = await server.listen(
            PredictorSettings(port=0),
            {
                NAME: lambda to: predictor_pb2_grpc.add_PredictorServiceServicer_to_server(
                    service, to
                )
            },
        )
        async with connect(listening.address) as channel:
            yield Running(predictor_pb2_grpc.PredictorServiceStub(channel), service, models)
        await listening.server.stop(None)


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    write_model(tmp_path, "revision-1")
    return tmp_path


@pytest.fixture
async def predictor(model_dir: Path) -> AsyncIterator[Running]:
    async with running(model_dir) as it:
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
    prompts = ["one", "another", "one", "a third"]
    response = await predictor.stub.Predict(request(*map(item, prompts)))
    alone = [(await predictor.stub.Predict(request(item(each)))).predictions[0] for each in prompts]
    assert response.revision == "revision-1"
    assert [each.rank_score for each in response.predictions] == pytest.approx(
        [each.rank_score for each in alone]
    )
    assert len({round(each.rank_score, 4) for each in alone}) == 3
    assert [q.probability for q in alone[0].quantiles] == pytest.approx([0.5, 0.9])
    assert not alone[0].HasField("length_class")


async def test_a_prediction_stays_within_max_tokens(predictor: Running) -> None:
    for limit in (362, 5):
        response = await predictor.stub.Predict(request(item("Write an essay.", limit)))
        (prediction,) = response.predictions
        assert 1 <= prediction.expected_tokens <= limit
        assert all(1 <= quantile.tokens <= limit for quantile in prediction.quantiles)


async def test_earlier_turns_are_read(predictor: Running) -> None:
    turn = predictor_pb2.Turn(role=predictor_pb2.TURN_ROLE_USER, content="an essay please")
    with_turn = predictor_pb2.PredictItem(prompt="go on", turns=[turn])
    response = await predictor.stub.Predict(request(item("go on"), with_turn))
    one, other = response.predictions
    assert one.rank_score != other.rank_score


async def test_the_llm_is_read_where_the_model_reads_it(tmp_path: Path) -> None:
    form = InputForm(max_tokens=40, llms=("small-llm", "large-llm"))
    write_model(tmp_path, "revision-1", stored=config(form=form))
    names = ("small-llm", "large-llm", "unheard-of", "also-unheard-of")
    items = [predictor_pb2.PredictItem(prompt="go on", model=name) for name in names]
    async with running(tmp_path) as predictor:
        found = (await predictor.stub.Predict(request(*items))).predictions
    small, large, unknown, other = (each.rank_score for each in found)
    assert len({small, large, unknown}) == 3
    assert unknown == pytest.approx(other)


async def test_an_unknown_llm_is_predicted_as_its_family_and_that_is_said(tmp_path: Path) -> None:
    form = InputForm(
        max_tokens=40, llms=("gemma-3-4b-it", "gemma-3-12b-it", "phi-4"), families=("gemma-3",)
    )
    write_model(tmp_path, "revision-1", stored=config(form=form))
    names = ("gemma-3-4b-it", "google/gemma-3-4b-it-AWQ", "gemma-3-27b-it", "gemma-3", "phi-4-mini")
    items = [predictor_pb2.PredictItem(prompt="go on", model=name) for name in (*names, "phi-4")]
    async with running(tmp_path) as predictor:
        with capture_logs() as logs:
            for _ in range(2):
                found = (await predictor.stub.Predict(request(*items))).predictions
    small, quantised, unseen, family, mini, phi = (each.rank_score for each in found)
    assert small == pytest.approx(quantised)
    assert unseen == pytest.approx(family)
    assert mini == pytest.approx(phi)
    assert len({small, unseen, mini}) == 3
    assert [(each["llm"], each["read_as"]) for each in logs if "read_as" in each] == [
        ("google/gemma-3-4b-it-AWQ", "gemma-3-4b-it"),
        ("gemma-3-27b-it", "gemma-3"),
        ("gemma-3", "gemma-3"),
        ("phi-4-mini", "phi-4"),
    ]


async def test_a_classifier_answers_with_classes(tmp_path: Path) -> None:
    write_model(tmp_path, "revision-1", stored=config(CLASSES))
    async with running(tmp_path) as predictor:
        (found,) = (await predictor.stub.Predict(request(item("hello")))).predictions
    assert found.length_class.count == 3
    assert found.length_class.index < 3
    assert 1 / 3 <= found.length_class.probability <= 1
    assert not found.quantiles


async def test_concurrent_calls_each_get_their_answers(predictor: Running) -> None:
    calls = [predictor.stub.Predict(request(*[item(f"p {n}")] * (1 + n % 3))) for n in range(20)]
    responses = await asyncio.gather(*calls)
    assert [len(each.predictions) for each in responses] == [1 + n % 3 for n in range(20)]


async def test_the_info_names_model_provider_and_limits(predictor: Running) -> None:
    info = await predictor.stub.GetPredictorInfo(predictor_pb2.GetPredictorInfoRequest())
    assert info.revision == "revision-1"
    assert (info.task, info.model) == ("test", "tiny-llm")
    assert info.execution_provider == CPU
    assert (info.max_input_tokens, info.max_items) == (FORM.max_tokens, MAX_ITEMS)


async def test_a_swap_drops_no_call_and_mixes_no_revisions(
    predictor: Running, model_dir: Path
) -> None:
    scores: dict[str, set[float]] = {}
    swapped = asyncio.Event()

    async def caller(number: int) -> None:
        call = 0
        while not swapped.is_set() or "revision-2" not in scores:
            call += 1
            filler = item(f"call {call} of {number}")
            response = await predictor.stub.Predict(request(item("same"), filler, item("same")))
            of_revision = scores.setdefault(response.revision, set())
            of_revision.update(round(response.predictions[n].rank_score, 4) for n in (0, 2))

    callers = [asyncio.create_task(caller(number)) for number in range(4)]
    await predictor.stub.Predict(request(item("first")))
    write_model(model_dir, "revision-2", Graph(seed=2))
    assert await predictor.models.look()
    swapped.set()
    await asyncio.gather(*callers)
    assert {revision: len(found) for revision, found in scores.items()} == {
        "revision-1": 1,
        "revision-2": 1,
    }
    assert scores["revision-1"] != scores["revision-2"]
    info = await predictor.stub.GetPredictorInfo(predictor_pb2.GetPredictorInfoRequest())
    assert info.revision == "revision-2"


async def test_outputs_that_are_not_finite_are_a_numeric_fault(
    predictor: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(ids: list[list[int]]) -> object:
        return real(ids) * float("nan")

    session = predictor.models.current.model.session
    real = session.run
    monkeypatch.setattr(session, "run", broken)
    error = await refused(predictor, request(item("new to the cache")))
    assert (error.code, error.reason) == (grpc.StatusCode.INTERNAL, "NUMERIC")


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


async def test_a_full_queue_is_refused_with_a_time_to_retry(model_dir: Path) -> None:
    async with running(model_dir, BatchLimits(4, 0.0, 2)) as predictor:
        error = await refused(predictor, request(*[item("hello")] * 3))
        assert error.code is grpc.StatusCode.RESOURCE_EXHAUSTED
        assert error.reason == "OVERLOADED"
        assert error.retry_after_s is not None
        assert len((await predictor.stub.Predict(request(item("hello")))).predictions) == 1


async def test_draining_lets_calls_finish_and_refuses_new_ones(
    predictor: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    def held(ids: list[list[int]]) -> object:
        runs.set()
        assert may_run.wait(10)
        return real(ids)

    runs, may_run = threading.Event(), threading.Event()
    session = predictor.models.current.model.session
    real = session.run
    monkeypatch.setattr(session, "run", held)
    early = asyncio.ensure_future(predictor.stub.Predict(request(item("hello"))))
    await asyncio.to_thread(runs.wait, 10)
    draining = asyncio.create_task(predictor.service.drain())
    await asyncio.sleep(0)
    error = await refused(predictor, request(item("too late")))
    assert error.reason == "DRAINING"
    may_run.set()
    assert len((await early).predictions) == 1
    await draining
