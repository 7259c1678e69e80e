from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager

import numpy as np
import pytest
from numpy.typing import NDArray

from predictor_svc.batcher import BatcherFull, BatchLimits
from predictor_svc.cache import OutputCache
from predictor_svc.encoder import PromptText
from predictor_svc.model_dir import Manifest, StoredFile
from predictor_svc.pipeline import Pipeline
from predictor_svc.predictions import NotFinite, Query
from tests.predictor_svc.small_model import DISTRIBUTION, config

STORED = StoredFile(file="any", sha256="0" * 64)
BROKEN = "broken"


class WordCounter:
    """A model that is sure of the bin given by the number of words; can be held."""

    def __init__(self) -> None:
        self.manifest = Manifest(
            revision="revision-1",
            config=config(),
            opset=18,
            inputs={},
            outputs={},
            graphs={"fp32": STORED},
            cpu_precision="fp32",
            tokenizer=STORED,
        )
        self.worker = ThreadPoolExecutor(1)
        self.batches: list[int] = []
        self.encoded: list[int] = []
        self.runs = threading.Event()
        self.may_run = threading.Event()
        self.may_run.set()
        self.failure: Exception | None = None

    def encode(self, texts: Sequence[PromptText]) -> list[list[int]]:
        self.encoded.append(len(texts))
        return [[-1] if each.prompt == BROKEN else [1] * len(each.prompt.split()) for each in texts]

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.floating]:
        self.runs.set()
        assert self.may_run.wait(10)
        self.batches.append(len(ids))
        if self.failure is not None:
            raise self.failure
        outputs = np.full((len(ids), DISTRIBUTION.width), -50.0, dtype=np.float32)
        for row, each in enumerate(ids):
            outputs[row, min(len(each), DISTRIBUTION.width - 1)] = 50.0
            if each == [-1]:
                outputs[row] = np.nan
        return outputs

    def close(self) -> None:
        self.worker.shutdown()


class Counts:
    """An observer that adds up."""

    def __init__(self) -> None:
        self.prompts = self.hits = self.misses = 0

    def batch(self, prompts: int, seconds: float) -> None:  # noqa: ARG002
        self.prompts += prompts

    def waiting(self, prompts: int) -> None:
        pass

    def looked_up(self, hits: int, misses: int) -> None:
        self.hits += hits
        self.misses += misses


@asynccontextmanager
async def pipeline(
    model: WordCounter,
    limits: BatchLimits,
    cache_items: int = 0,
    counts: Counts | None = None,
) -> AsyncIterator[Pipeline]:
    made = Pipeline(model, limits, OutputCache(cache_items), counts or Counts())
    try:
        yield made
    finally:
        model.may_run.set()
        await made.close()


@asynccontextmanager
async def held(model: WordCounter, busy: Pipeline) -> AsyncIterator[None]:
    """Another call's batch stands in the model meanwhile, and is answered afterwards."""
    model.may_run.clear()
    model.runs.clear()
    other = asyncio.create_task(busy.predict([query(1)]))
    await asyncio.to_thread(model.runs.wait, 10)
    yield
    model.may_run.set()
    await other


def query(words: int, max_tokens: int | None = None) -> Query:
    return Query(PromptText(" ".join(["word"] * words)), max_tokens)


async def until_waiting(busy: Pipeline, prompts: int) -> None:
    async with asyncio.timeout(10):
        while busy.waiting != prompts:  # noqa: ASYNC110 (no event tells of it)
            await asyncio.sleep(0.001)


async def test_an_idle_pipeline_starts_a_lone_prompt_at_once() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(16, 1000.0, 100)) as idle:
        for _ in range(2):
            async with asyncio.timeout(10):
                await idle.predict([query(1)])
    assert model.batches == [1, 1]


async def test_calls_that_arrive_together_run_together() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(16, 10.0, 100)) as busy:
        await asyncio.gather(*(busy.predict([query(1)] * 4) for _ in range(4)))
    assert model.batches == [16]


async def test_what_gathers_while_a_batch_runs_makes_the_next_one() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(16, 1000.0, 100)) as busy:
        async with held(model, busy):
            calls = [asyncio.create_task(busy.predict([query(1)])) for _ in range(5)]
            await until_waiting(busy, 5)
        await asyncio.gather(*calls)
    assert model.batches == [1, 5]


async def test_company_is_waited_for_only_so_long_while_a_batch_runs() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(16, 0.2, 100)) as busy, held(model, busy):
        call = asyncio.create_task(busy.predict([query(1)]))
        await until_waiting(busy, 1)
        await until_waiting(busy, 0)
        assert not call.done()
    assert model.batches == [1, 1]


async def test_the_next_batch_is_tokenised_while_one_runs() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(4, 0.0, 100)) as busy:
        async with held(model, busy):
            call = asyncio.create_task(busy.predict([query(1)] * 8))
            while len(model.encoded) < 2:  # noqa: ASYNC110 (no event tells of it)
                await asyncio.sleep(0.001)
            await until_waiting(busy, 4)  # two batches are under way, and no third
            assert model.encoded == [1, 4]
        await call
    assert model.batches == [1, 4, 4]


async def test_each_caller_gets_its_own_answers_in_order() -> None:
    async with pipeline(WordCounter(), BatchLimits(3, 0.001, 100)) as busy:
        one, other = await asyncio.gather(
            busy.predict([query(n) for n in (1, 5, 3)]), busy.predict([query(n) for n in (4, 2)])
        )
    values = DISTRIBUTION.bins.values
    assert [each.expected_tokens for each in one] == pytest.approx(values[[1, 5, 3]])
    assert [each.expected_tokens for each in other] == pytest.approx(values[[4, 2]])


async def test_a_full_queue_refuses_and_recovers() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(1, 1000.0, 4)) as busy:
        async with held(model, busy):
            call = asyncio.create_task(busy.predict([query(1)] * 4))
            await until_waiting(busy, 3)  # one is tokenised
            with pytest.raises(BatcherFull):
                await busy.predict([query(1)] * 2)
        await call
        assert busy.waiting == 0
        assert len(await busy.predict([query(1)])) == 1


async def test_a_caller_that_leaves_is_not_computed_for() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(8, 1000.0, 100)) as busy:
        async with held(model, busy):
            leaver = asyncio.create_task(busy.predict([query(1)] * 5))
            stayer = asyncio.create_task(busy.predict([query(1)] * 2))
            await until_waiting(busy, 7)
            leaver.cancel()
            await asyncio.gather(leaver, return_exceptions=True)
        await stayer
        assert busy.waiting == 0
    assert model.batches == [1, 2]


async def test_a_failed_batch_fails_its_callers_and_no_others() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(4, 0.0, 100)) as busy:
        model.failure = RuntimeError("broken")
        with pytest.raises(RuntimeError, match="broken"):
            await busy.predict([query(1)])
        model.failure = None
        assert len(await busy.predict([query(1)])) == 1


async def test_outputs_that_are_not_finite_fail_their_caller_alone() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(4, 0.0, 100), cache_items=10) as busy:
        bad = busy.predict([Query(PromptText(BROKEN), None)])
        one, other = await asyncio.gather(bad, busy.predict([query(2)]), return_exceptions=True)
        assert model.batches == [2]
        assert isinstance(one, NotFinite)
        assert isinstance(other, list)
        with pytest.raises(NotFinite):  # nor is it remembered
            await busy.predict([Query(PromptText(BROKEN), None)])


async def test_a_prompt_seen_before_is_answered_without_a_run() -> None:
    model, counts = WordCounter(), Counts()
    async with pipeline(model, BatchLimits(4, 0.0, 100), 10, counts) as busy:
        first = await busy.predict([query(3), query(5)])
        assert await busy.predict([query(5), query(3)]) == first[::-1]
    assert model.batches == [2]
    assert (counts.hits, counts.misses, counts.prompts) == (2, 2, 2)


async def test_a_remembered_prompt_is_clipped_to_the_new_limit() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(4, 0.0, 100), 10) as busy:
        (narrow,) = await busy.predict([query(7, max_tokens=3)])
        (wide,) = await busy.predict([query(7)])
    assert model.batches == [1]
    assert narrow.expected_tokens == pytest.approx(3)
    assert wide.expected_tokens == pytest.approx(DISTRIBUTION.beyond_tokens)


async def test_only_what_is_new_of_a_call_is_run() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(4, 0.0, 100), 10) as busy:
        await busy.predict([query(2)])
        found = await busy.predict([query(1), query(2), query(3)])
    assert model.batches == [1, 2]
    assert [each.expected_tokens for each in found] == pytest.approx(
        DISTRIBUTION.bins.values[[1, 2, 3]]
    )


async def test_a_forgotten_prompt_is_run_again() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(4, 0.0, 100), cache_items=1) as busy:
        for words in (1, 2, 1):
            await busy.predict([query(words)])
    assert model.batches == [1, 1, 1]


async def test_closing_waits_for_the_calls_under_way() -> None:
    model = WordCounter()
    async with pipeline(model, BatchLimits(4, 0.0, 100)) as leaving:
        async with held(model, leaving):
            call = asyncio.create_task(leaving.predict([query(2)] * 9))
            await until_waiting(leaving, 5)
            closing = asyncio.create_task(leaving.close())
            await asyncio.sleep(0)
            assert not closing.done()
        await closing
        assert len(await call) == 9
