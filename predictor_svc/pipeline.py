"""From prompts to predictions of one loaded model: cache, batch, tokenise, run, read.

Owns the two worker threads, the batches under way and the model's cache. At most two
batches are under way: one runs while the next is tokenised. An idle pipeline starts a
prompt at once. A caller that goes away costs nothing further. Called by `models`; drives
`batcher`, `cache`, `encoder` and `session`.

    loop                   encode                 run
    put, take ───────────▶ tokenise ────────────▶ run, read ──▶ loop: deliver, keep
         (an idle pipeline's batch is tokenised by the run thread: one hop less)
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from predictor_svc.batcher import BatchLimits, MicroBatcher
from predictor_svc.cache import OutputCache, digest
from predictor_svc.encoder import PromptText
from predictor_svc.model_dir import Manifest
from predictor_svc.predictions import LengthPrediction, NotFinite, Query, interpret

MOST_BATCHES = 2
"""Under way at once: one in each thread."""


class Model(Protocol):
    """What predicts: a loaded model, or a test's stand-in."""

    @property
    def manifest(self) -> Manifest:
        """What was exported."""

    @property
    def worker(self) -> ThreadPoolExecutor:
        """The one thread in which `run` may be called."""

    def encode(self, texts: Sequence[PromptText]) -> list[list[int]]:
        """Token ids of each text; from any thread."""

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.floating]:
        """(n, width) outputs of n prompts."""

    def close(self) -> None:
        """Frees the model; blocks until it is done."""


class Observer(Protocol):
    """Told what happens; see `metrics`."""

    def batch(self, prompts: int, seconds: float) -> None:
        """One batch is done, so long after it was taken."""

    def waiting(self, prompts: int) -> None:
        """So many prompts wait now."""

    def looked_up(self, hits: int, misses: int) -> None:
        """The cache was asked."""


@dataclass(slots=True, eq=False)
class _Call:
    predictions: list[LengthPrediction]
    """In the order of the queries; places of misses are filled as batches end."""
    missing: int
    answered: asyncio.Future[None]


@dataclass(frozen=True, slots=True, eq=False)
class _Entry:
    """A prompt of a call that the network has to read."""

    query: Query
    key: bytes
    call: _Call
    place: int

    def is_wanted(self) -> bool:
        return not self.call.answered.done()


@dataclass(frozen=True, slots=True)
class _Outcome:
    rows: NDArray[np.floating]
    predictions: list[LengthPrediction | None]


_UNKNOWN = LengthPrediction(1.0, (), 0.0)


class Pipeline:
    """Predicts for concurrent callers with one model, from start to end of its service."""

    def __init__(
        self,
        model: Model,
        limits: BatchLimits,
        cache: OutputCache,
        observer: Observer,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Takes the model over; made on the event loop that it serves."""
        self.model = model
        self._config = model.manifest.config
        self._batcher: MicroBatcher[_Entry] = MicroBatcher(limits)
        self._cache = cache
        self._observer = observer
        self._clock = clock
        self._loop = asyncio.get_running_loop()
        self._encoding = ThreadPoolExecutor(1, "encode")
        self._under_way = 0
        self._calls = 0
        self._ended = asyncio.Event()
        self._ended.set()
        self._start_is_due = False
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> int:
        """Prompts that are in no batch yet."""
        return self._batcher.waiting

    async def predict(self, queries: Sequence[Query]) -> list[LengthPrediction]:
        """Predictions in the order of the queries.

        Raises BatcherFull without waiting, and NotFinite.
        """
        call = _Call([_UNKNOWN] * len(queries), 0, self._loop.create_future())
        misses = self._look_up(queries, call)
        if not misses:
            return call.predictions
        self._batcher.put(misses, self._clock())
        self._calls += 1
        self._ended.clear()
        self._start_soon()
        try:
            await call.answered  # a caller that leaves cancels it, and with it its entries
        finally:
            self._calls -= 1
            self._note_end()
        return call.predictions

    async def close(self) -> None:
        """Returns when every call has ended, the threads with them, and the model is freed."""
        await self._ended.wait()
        self._encoding.shutdown()
        await asyncio.to_thread(self.model.close)

    def _look_up(self, queries: Sequence[Query], call: _Call) -> list[_Entry]:
        """Fills in what the cache holds; the entries of what it does not."""
        if not self._cache.enabled:
            call.missing = len(queries)
            return [_Entry(query, b"", call, place) for place, query in enumerate(queries)]
        misses: list[_Entry] = []
        places: list[int] = []
        rows: list[NDArray[np.float32]] = []
        for place, query in enumerate(queries):
            key = digest(query.text, self._config.input)
            row = self._cache.get(key)
            if row is None:
                misses.append(_Entry(query, key, call, place))
            else:
                places.append(place)
                rows.append(row)
        if rows:
            limits = [queries[place].max_tokens for place in places]
            found = interpret(np.stack(rows), limits, self._config.output)
            for place, prediction in zip(places, found, strict=True):
                if prediction is not None:  # always: only finite outputs are kept
                    call.predictions[place] = prediction
        call.missing = len(misses)
        self._observer.looked_up(len(rows), len(misses))
        return misses

    def _start_soon(self) -> None:
        """Starts what is due once the loop has handled what arrived together."""
        if not self._start_is_due:
            self._start_is_due = True
            self._loop.call_soon(self._start)

    def _start(self) -> None:
        self._start_is_due = False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._under_way < MOST_BATCHES:
            busy = self._under_way > 0
            batch = self._batcher.take(self._clock(), busy, _Entry.is_wanted)
            if batch:
                self._submit(batch)
            elif not self._wait_until_due(busy):
                break
        self._observer.waiting(self._batcher.waiting)

    def _wait_until_due(self, busy: bool) -> bool:
        """Whether to look again at once, because all that was taken is no longer wanted."""
        due = self._batcher.due(busy)
        if due is None:
            return False
        delay = due - self._clock()
        if delay <= 0:
            return True
        self._timer = self._loop.call_later(delay, self._start)
        return False

    def _submit(self, batch: list[_Entry]) -> None:
        started = self._clock()
        idle = self._under_way == 0
        self._under_way += 1
        thread = self.model.worker if idle else self._encoding
        thread.submit(self._encode, batch, started, idle)

    def _encode(self, batch: list[_Entry], started: float, here: bool) -> None:
        """In a worker thread: tokenises, and runs here or in the other thread."""
        try:
            ids = self.model.encode([entry.query.text for entry in batch])
        except Exception as error:  # each caller hears of it; the next batch may go well
            self._loop.call_soon_threadsafe(self._fail, batch, error)
            return
        if here:
            self._run(batch, ids, started)
        else:
            self.model.worker.submit(self._run, batch, ids, started)

    def _run(self, batch: list[_Entry], ids: list[list[int]], started: float) -> None:
        """In the model's thread."""
        try:
            rows = self.model.run(ids)
            limits = [entry.query.max_tokens for entry in batch]
            outcome = _Outcome(rows, interpret(rows, limits, self._config.output))
        except Exception as error:  # as in `_encode`
            self._loop.call_soon_threadsafe(self._fail, batch, error)
            return
        self._loop.call_soon_threadsafe(self._deliver, batch, outcome, started)

    def _deliver(self, batch: list[_Entry], outcome: _Outcome, started: float) -> None:
        self._under_way -= 1
        self._start()  # first, so that the threads work while the loop answers
        for entry, row, prediction in zip(batch, outcome.rows, outcome.predictions, strict=True):
            call = entry.call
            if prediction is None:
                _end(call, NotFinite("the model gave outputs that are not finite"))
                continue
            self._cache.put(entry.key, row)
            call.predictions[entry.place] = prediction
            call.missing -= 1
            if call.missing == 0:
                _end(call, None)
        self._observer.batch(len(batch), self._clock() - started)
        self._note_end()

    def _fail(self, batch: list[_Entry], error: Exception) -> None:
        self._under_way -= 1
        for entry in batch:
            _end(entry.call, error)
        self._start()
        self._note_end()

    def _note_end(self) -> None:
        if self._calls == 0 and self._under_way == 0:
            self._ended.set()


def _end(call: _Call, error: Exception | None) -> None:
    if call.answered.done():
        return
    if error is None:
        call.answered.set_result(None)
    else:
        call.answered.set_exception(error)
