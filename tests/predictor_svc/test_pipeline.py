from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

import numpy as np
import pytest

from predictor_svc.batcher import BatcherFull, BatchLimits
from predictor_svc.encoder import PromptText, load_encoder
from predictor_svc.lengths import Floats
from predictor_svc.model_dir import ModelConfig
from predictor_svc.pipeline import Pipeline, Query, interpret
from predictor_svc.training.backbone import packaged_folder

CONFIG = ModelConfig(
    task="distribution",
    llm="tiny-llm",
    max_input_tokens=32,
    bin_count=8,
    top_tokens=256,
    beyond_tokens=362,
    rank_values=tuple(n / 8 for n in range(8)),
    quantiles=(0.5, 0.9),
)


class FirstTokenRunner:
    """Puts all probability in the bin given by the number of tokens; can be held."""

    def __init__(self) -> None:
        self.batches: list[int] = []
        self.may_run = threading.Event()
        self.may_run.set()
        self.failure: Exception | None = None

    def run(self, ids: Sequence[Sequence[int]]) -> Floats:
        assert self.may_run.wait(10)
        self.batches.append(len(ids))
        if self.failure is not None:
            raise self.failure
        logits = np.full((len(ids), CONFIG.bin_count), -50.0)
        for row, each in enumerate(ids):
            logits[row, min(len(each) - 2, CONFIG.bin_count - 1)] = 50.0
        return logits


class Silent:
    def batch(self, prompts: int, seconds: float) -> None:
        pass

    def waiting(self, prompts: int) -> None:
        pass


def pipeline(runner: FirstTokenRunner, limits: BatchLimits) -> Pipeline:
    encoder = load_encoder(packaged_folder() / "tokenizer.json", CONFIG.max_input_tokens)
    return Pipeline(encoder, runner, CONFIG, limits, Silent())


def query(words: int, max_tokens: int | None = None) -> Query:
    return Query(PromptText(" ".join(["word"] * words)), max_tokens)


async def until_waiting(busy: Pipeline, prompts: int) -> None:
    while busy.waiting != prompts:  # noqa: ASYNC110 (no event tells of it)
        await asyncio.sleep(0.001)


async def test_calls_that_arrive_together_run_together() -> None:
    runner = FirstTokenRunner()
    async with pipeline(runner, BatchLimits(16, 10.0, 100)) as busy:
        await asyncio.gather(*(busy.predict([query(1)] * 4) for _ in range(4)))
    assert runner.batches == [16]


async def test_a_lone_call_is_answered_after_the_wait() -> None:
    runner = FirstTokenRunner()
    async with pipeline(runner, BatchLimits(16, 0.002, 100)) as busy:
        await busy.predict([query(1)])
    assert runner.batches == [1]


async def test_each_caller_gets_its_own_answers_in_order() -> None:
    async with pipeline(FirstTokenRunner(), BatchLimits(3, 0.001, 100)) as busy:
        one, other = await asyncio.gather(
            busy.predict([query(n) for n in (1, 5, 3)]), busy.predict([query(n) for n in (4, 2)])
        )
    values = CONFIG.bins.values
    assert [each.expected_tokens for each in one] == pytest.approx(values[[1, 5, 3]])
    assert [each.expected_tokens for each in other] == pytest.approx(values[[4, 2]])


async def test_a_full_queue_refuses_and_recovers() -> None:
    runner = FirstTokenRunner()
    runner.may_run.clear()
    async with pipeline(runner, BatchLimits(1, 0.0, 4)) as busy:
        calls = [asyncio.create_task(busy.predict([query(1)] * 4))]
        await until_waiting(busy, 3)  # one is held inside the runner
        with pytest.raises(BatcherFull):
            await busy.predict([query(1)] * 2)
        runner.may_run.set()
        await asyncio.gather(*calls)
        assert busy.waiting == 0
        assert len(await busy.predict([query(1)])) == 1


async def test_a_caller_that_leaves_is_not_computed_for() -> None:
    runner = FirstTokenRunner()
    runner.may_run.clear()
    async with pipeline(runner, BatchLimits(1, 0.0, 100)) as busy:
        first = asyncio.create_task(busy.predict([query(1)]))
        leaver = asyncio.create_task(busy.predict([query(1)] * 5))
        await until_waiting(busy, 5)
        leaver.cancel()
        await asyncio.gather(leaver, return_exceptions=True)
        runner.may_run.set()
        await first
        await busy.predict([query(1)])
        assert busy.waiting == 0
    assert runner.batches == [1, 1]


async def test_a_failed_batch_fails_its_callers_and_no_others() -> None:
    runner = FirstTokenRunner()
    async with pipeline(runner, BatchLimits(4, 0.0, 100)) as busy:
        runner.failure = RuntimeError("broken")
        with pytest.raises(RuntimeError, match="broken"):
            await busy.predict([query(1)])
        runner.failure = None
        assert len(await busy.predict([query(1)])) == 1


def test_a_prediction_is_clipped_to_the_request_s_limit() -> None:
    logits = np.zeros((2, CONFIG.bin_count))
    logits[:, -1] = 50.0
    free, limited = interpret(logits, [None, 40], CONFIG)
    assert free.expected_tokens == pytest.approx(CONFIG.beyond_tokens)
    assert limited.expected_tokens == pytest.approx(40)
    assert max(tokens for _, tokens in limited.quantiles) <= 40
    assert free.rank_score == limited.rank_score


def test_logits_that_are_not_finite_are_an_error() -> None:
    logits = np.zeros((1, CONFIG.bin_count))
    logits[0, 3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        interpret(logits, [None], CONFIG)
