"""One model takes over from another, and broken ones do not."""

from __future__ import annotations

import asyncio
import gc
import shutil
import weakref
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from structlog.testing import capture_logs

from predictor_svc.batcher import BatchLimits
from predictor_svc.cache import OutputCache
from predictor_svc.encoder import PromptText
from predictor_svc.loaded import LoadedModel, load
from predictor_svc.metrics import Reporter
from predictor_svc.model_dir import MANIFEST
from predictor_svc.models import Models
from predictor_svc.pipeline import Pipeline
from predictor_svc.predictions import LengthPrediction, Query
from tests.predictor_svc.small_model import Graph, load_options, write_manifest, write_model

QUERY = Query(PromptText("how long will it be?"), None)


class Loads:
    """Observes what serves and what is refused."""

    def __init__(self) -> None:
        self.served: list[str] = []
        self.refusals = 0

    def serving(self, model: LoadedModel) -> None:
        self.served.append(model.manifest.revision)

    def refused(self) -> None:
        self.refusals += 1


@asynccontextmanager
async def models_of(folder: Path, loads: Loads | None = None) -> AsyncIterator[Models]:
    def pipeline_of(model: LoadedModel) -> Pipeline:
        return Pipeline(model, BatchLimits(4, 0.0, 1000), OutputCache(100), Reporter())

    models = Models(folder, partial(load, load_options(folder)), pipeline_of, loads or Loads())
    await models.start()
    async with models:
        yield models


def revision(models: Models) -> str:
    return models.current.model.manifest.revision


async def predict(models: Models) -> LengthPrediction:
    (prediction,) = await models.current.pipeline.predict([QUERY])
    return prediction


async def test_a_new_model_takes_over_and_nothing_is_remembered_of_the_old(tmp_path: Path) -> None:
    write_model(tmp_path, "revision-1")
    loads = Loads()
    async with models_of(tmp_path, loads) as models:
        before = await predict(models)
        write_model(tmp_path, "revision-2", Graph(seed=2))
        assert await models.look()
        assert revision(models) == "revision-2"
        assert await predict(models) != before
    assert loads.served == ["revision-1", "revision-2"]


async def test_a_folder_that_stays_the_same_is_not_loaded_again(tmp_path: Path) -> None:
    write_model(tmp_path, "revision-1")
    loads = Loads()
    async with models_of(tmp_path, loads) as models:
        assert not await models.look()
        write_model(tmp_path, "revision-1")  # other files, the same content
        assert not await models.look()
    assert loads.served == ["revision-1"]


async def test_a_call_ends_with_the_model_that_it_began_with(tmp_path: Path) -> None:
    many = [Query(PromptText(f"{QUERY.text.prompt} {n}"), None) for n in range(200)]
    write_model(tmp_path, "revision-1")
    async with models_of(tmp_path) as models:
        expected = await models.current.pipeline.predict(many)
    async with models_of(tmp_path) as models:  # which remembers nothing yet
        call = asyncio.create_task(models.current.pipeline.predict(many))
        await asyncio.sleep(0)
        write_model(tmp_path, "revision-2", Graph(seed=2))
        assert await models.look()
        scores = [each.rank_score for each in await call]
        assert scores == pytest.approx([each.rank_score for each in expected])
        (other,) = await models.current.pipeline.predict(many[:1])
        assert other.rank_score != pytest.approx(scores[0])


async def test_the_old_model_is_freed_when_its_last_call_has_ended(tmp_path: Path) -> None:
    write_model(tmp_path, "revision-1")
    async with models_of(tmp_path) as models:
        old = models.current
        call = asyncio.create_task(old.pipeline.predict([QUERY] * 20))
        await asyncio.sleep(0)
        write_model(tmp_path, "revision-2")
        await models.look()
        assert len(await call) == 20
        graph = weakref.ref(old.model.session)
        del old
        async with asyncio.timeout(10):
            while graph() is not None:
                await asyncio.sleep(0.01)
                gc.collect()


async def test_an_exported_model_takes_over(tmp_path: Path, tiny_model_dir: Path) -> None:
    write_model(tmp_path, "revision-1")
    async with models_of(tmp_path) as models:
        before = await predict(models)
        shutil.copytree(tiny_model_dir, tmp_path, dirs_exist_ok=True)
        assert await models.look()
        assert models.current.model.manifest.config.llm == "tiny-llm"
        after = await predict(models)
        assert after.expected_tokens >= 1
        assert after != before


async def test_calls_during_swaps_all_succeed_with_one_revision_each(tmp_path: Path) -> None:
    write_model(tmp_path, "revision-0")
    async with models_of(tmp_path) as models:
        by_revision: dict[str, set[LengthPrediction]] = {}
        done = asyncio.Event()

        async def caller(number: int) -> None:
            call = 0
            while not done.is_set():
                call += 1
                filler = Query(PromptText(f"call {call} of {number}"), None)
                serving = models.current
                found = await serving.pipeline.predict([QUERY, filler, QUERY])
                of_revision = by_revision.setdefault(serving.model.manifest.revision, set())
                of_revision.update((found[0], found[2]))

        callers = [asyncio.create_task(caller(number)) for number in range(4)]
        for seed in range(1, 4):
            write_model(tmp_path, f"revision-{seed}", Graph(seed=seed))
            assert await models.look()
            async with asyncio.timeout(30):
                while f"revision-{seed}" not in by_revision:  # noqa: ASYNC110
                    await asyncio.sleep(0.001)
        done.set()
        await asyncio.gather(*callers)
    assert sorted(by_revision) == [f"revision-{seed}" for seed in range(4)]
    scores = [{round(each.rank_score, 6) for each in found} for found in by_revision.values()]
    assert [len(each) for each in scores] == [1] * 4
    assert len(set.union(*scores)) == 4


def nan_graph(folder: Path) -> None:
    write_model(folder, "revision-2", Graph(value=float("nan")))


def torn_graph(folder: Path) -> None:
    write_model(folder, "revision-2")
    path = folder / "revision-2.fp32.onnx"
    path.write_bytes(path.read_bytes()[:-10])


def missing_graph(folder: Path) -> None:
    write_model(folder, "revision-2")
    (folder / "revision-2.fp32.onnx").unlink()


BREAKS: dict[str, Callable[[Path], Any]] = {
    "outputs that are NaN": nan_graph,
    "torn graph": torn_graph,
    "missing graph": missing_graph,
    "no JSON": lambda folder: write_manifest(folder, "{"),
    "JSON of something else": lambda folder: write_manifest(folder, '{"revision": "revision-2"}'),
    "no manifest": lambda folder: (folder / MANIFEST).unlink(),
    "no folder": shutil.rmtree,
}


@pytest.mark.parametrize("kind", BREAKS)
async def test_a_broken_model_is_refused_once_and_the_old_one_stays(
    tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "model"
    write_model(folder, "revision-1")
    loads = Loads()
    async with models_of(folder, loads) as models:
        before = await predict(models)
        BREAKS[kind](folder)
        with capture_logs() as logs:
            assert not await models.look()
            assert not await models.look()
        assert revision(models) == "revision-1"
        assert await predict(models) == before
        assert loads.refusals == 1
        assert [each["log_level"] for each in logs] == ["error"]


async def test_files_that_arrive_one_by_one_are_refused_in_one_line_then_taken(
    tmp_path: Path,
) -> None:
    folder, source = tmp_path / "model", tmp_path / "source"
    write_model(folder, "revision-1")
    write_model(source, "revision-2", Graph(seed=2))
    async with models_of(folder) as models:
        whole = (source / "revision-2.fp32.onnx").read_bytes()
        with capture_logs() as logs:
            shutil.copy(source / MANIFEST, folder)
            assert not await models.look()
            (folder / "revision-2.fp32.onnx").write_bytes(whole[:1000])
            assert not await models.look()
        (folder / "revision-2.fp32.onnx").write_bytes(whole)
        assert await models.look()
        assert revision(models) == "revision-2"
        assert len(logs) == 1


async def test_watching_finds_a_new_model(tmp_path: Path) -> None:
    write_model(tmp_path, "revision-1")
    async with models_of(tmp_path) as models:
        watching = asyncio.create_task(models.watch(0.01))
        write_model(tmp_path, "revision-2")
        async with asyncio.timeout(10):
            while revision(models) != "revision-2":  # noqa: ASYNC110 (no event tells of it)
                await asyncio.sleep(0.01)
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)
