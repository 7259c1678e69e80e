"""From prompts to predictions: tokenise, batch across calls, run, read the bins.

Owns the two worker threads (one tokenises, one runs the session) and the task that
starts batches when the batcher says so. A caller that goes away costs nothing further.
Called by `service`; drives `batcher`, `encoder`, `session` and `lengths`.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from predictor_svc.batcher import BatchLimits, MicroBatcher
from predictor_svc.encoder import Encoder, PromptText
from predictor_svc.lengths import Floats, softmax
from predictor_svc.model_dir import ModelConfig


@dataclass(frozen=True, slots=True)
class Query:
    """One prompt to predict for."""

    text: PromptText
    max_tokens: int | None
    """The request's limit, which clips the prediction; None without one."""


@dataclass(frozen=True, slots=True)
class LengthPrediction:
    """What the model expects of one answer; everything finite, tokens at least 1."""

    expected_tokens: float
    quantiles: tuple[tuple[float, float], ...]
    """(probability, tokens), rising."""
    rank_score: float


class Runner(Protocol):
    """What runs a batch: a session, or a test's stand-in."""

    def run(self, ids: Sequence[Sequence[int]]) -> Floats:
        """(n, bins) logits of n prompts."""


class Observer(Protocol):
    """Told what happens; see `metrics`."""

    def batch(self, prompts: int, seconds: float) -> None:
        """One batch has run."""

    def waiting(self, prompts: int) -> None:
        """So many prompts wait now."""


@dataclass(slots=True, eq=False)
class _Entry:
    ids: list[int]
    logits: asyncio.Future[Floats]


class Pipeline:
    """Predicts for concurrent callers; an async context manager."""

    def __init__(
        self,
        encoder: Encoder,
        runner: Runner,
        config: ModelConfig,
        limits: BatchLimits,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._encoder = encoder
        self._runner = runner
        self._config = config
        self._batcher: MicroBatcher[_Entry] = MicroBatcher(limits)
        self._observer = observer
        self._clock = clock
        self._changed = asyncio.Event()
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._running = ThreadPoolExecutor(1, "run")
        self._task: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Pipeline:
        self._task = asyncio.create_task(self._work())
        return self

    async def __aexit__(self, *exception: object) -> None:
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        self._encoding.shutdown()
        self._running.shutdown()

    @property
    def waiting(self) -> int:
        """Prompts admitted and not yet running."""
        return self._batcher.waiting

    async def predict(self, queries: Sequence[Query]) -> list[LengthPrediction]:
        """Predictions in the order of the queries. Raises BatcherFull without waiting."""
        entries = await self._enqueue([query.text for query in queries])
        try:
            logits = await asyncio.gather(*(entry.logits for entry in entries))
        finally:
            for entry in entries:
                entry.logits.cancel()  # of no use to anyone where the caller left
        return interpret(np.stack(logits), [query.max_tokens for query in queries], self._config)

    async def _enqueue(self, texts: list[PromptText]) -> list[_Entry]:
        """Tokenises in a thread; the prompts count as waiting meanwhile."""
        loop = asyncio.get_running_loop()
        self._batcher.admit(len(texts))
        try:
            ids = await loop.run_in_executor(self._encoding, self._encoder.encode, texts)
        except BaseException:
            self._batcher.withdraw(len(texts))
            raise
        entries = [_Entry(row, loop.create_future()) for row in ids]
        self._batcher.put(entries, self._clock())
        self._changed.set()
        return entries

    async def _work(self) -> None:
        """Starts each batch when it is due; one runs at a time, the next gathers meanwhile."""
        while True:
            batch = self._batcher.take(self._clock(), lambda entry: not entry.logits.done())
            if batch:
                await self._run(batch)
            else:
                await self._until_due()

    async def _until_due(self) -> None:
        """Returns when a batch may be due: something was queued, or the oldest waited enough."""
        due = self._batcher.due()
        self._changed.clear()
        try:
            delay = None if due is None else max(0.0, due - self._clock())
            # Not wait_for: before Python 3.12 it loses a cancellation that meets the event.
            async with asyncio.timeout(delay):
                await self._changed.wait()
        except TimeoutError:
            return

    async def _run(self, batch: list[_Entry]) -> None:
        started = self._clock()
        ids = [entry.ids for entry in batch]
        try:
            loop = asyncio.get_running_loop()
            logits = await loop.run_in_executor(self._running, self._runner.run, ids)
        except Exception as error:  # each caller hears of it; the next batch may go well
            for entry in batch:
                if not entry.logits.done():
                    entry.logits.set_exception(error)
            return
        for entry, row in zip(batch, logits, strict=True):
            if not entry.logits.done():
                entry.logits.set_result(row)
        self._observer.batch(len(batch), self._clock() - started)
        self._observer.waiting(self._batcher.waiting)


def interpret(
    logits: Floats, max_tokens: Sequence[int | None], config: ModelConfig
) -> list[LengthPrediction]:
    """(n, bins) logits and each request's limit to predictions.

    Raises ValueError on logits that are not finite: no number is better than a made-up one.
    """
    if not np.isfinite(logits).all():
        raise ValueError("the model gave logits that are not finite")
    probabilities = softmax(logits)
    limits = np.array([each or config.beyond_tokens for each in max_tokens], dtype=np.float64)
    expected = config.bins.expected(probabilities, limits)
    quantiles = config.bins.quantiles(probabilities, config.quantiles, limits)
    scores = probabilities @ np.array(config.rank_values)
    return [
        LengthPrediction(
            float(tokens), tuple(zip(config.quantiles, row.tolist(), strict=True)), float(score)
        )
        for tokens, row, score in zip(expected, quantiles, scores, strict=True)
    ]
