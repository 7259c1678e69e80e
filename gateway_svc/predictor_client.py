"""Asks the predictor, within a time budget, and never lets a request fail for it.

`ask` opens a question that lives as long as its request: `within` waits for the
budget, `when_answered` hands a late answer on. Leaving the context cancels the
downstream call. Answers that make no sense are refused and counted as failures.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import grpc

from gateway_svc import metrics
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import channel, logs

# Beyond any context: a larger prediction is a fault, not a long answer.
MAX_TOKENS = 1e7
P90 = 0.9
P90_TOLERANCE = 0.005


class PredictionFailed(Exception):
    """The predictor is down, refused, or answered nonsense."""


@dataclass(slots=True)
class PredictorState:
    """What the last answers say of the predictor."""

    degraded: bool = False
    revision: str = ""


@dataclass(frozen=True, slots=True)
class Forecast:
    """A prediction that makes sense."""

    tokens: float
    """Expected output tokens, positive."""
    p90_tokens: float | None = None
    """Output tokens that nine in ten such answers stay within; None where it is not told."""


@dataclass(frozen=True, slots=True)
class Question:
    """One prompt's pending prediction."""

    answer: asyncio.Task[Forecast]

    async def within(self, budget_s: float) -> Forecast | None:
        """The prediction, None where the budget passed. Raises PredictionFailed."""
        done, _ = await asyncio.wait({self.answer}, timeout=budget_s)
        return self.answer.result() if done else None

    @property
    def failed(self) -> bool:
        """Whether the answer is in and is no prediction."""
        return self.answer.done() and self.answer.exception() is not None

    def when_answered(self, take: Callable[[Forecast | None], None]) -> None:
        """Calls `take` with the late answer, or with None when it failed; not when cancelled."""

        def hand_on(answer: asyncio.Task[Forecast]) -> None:
            if not answer.cancelled():
                take(None if answer.exception() else answer.result())

        self.answer.add_done_callback(hand_on)


@dataclass(slots=True)
class PredictorClient:
    """One channel to the predictor, or to several in turn; opened by the first question."""

    address: str
    """As `channel.connect_balanced` takes it."""
    timeout_s: float
    state: PredictorState = field(default_factory=PredictorState)
    _channel: grpc.aio.Channel | None = None

    @asynccontextmanager
    async def ask(self, item: predictor_pb2.PredictItem) -> AsyncIterator[Question]:
        """Opens a question; leaving the context cancels it."""
        question = Question(asyncio.create_task(self._predict(item)))
        try:
            yield question
        finally:
            question.answer.cancel()
            await asyncio.wait({question.answer})
            if not question.answer.cancelled():
                question.answer.exception()  # looked at, so that the loop does not log it

    def note(self, *, in_time: bool, why: str) -> None:
        """Records whether the latest prediction came within its budget, and if not, why."""
        if self.state.degraded == in_time:
            log = logs.get_logger().bind(address=self.address)
            if in_time:
                log.info("predictor answers in time again")
            else:
                log.warning("predictor degraded, the prior stands in", why=why)
        self.state.degraded = not in_time
        metrics.PREDICTOR_DEGRADED.set(self.state.degraded)

    async def close(self) -> None:
        """Closes the channel."""
        if self._channel is not None:
            await self._channel.close()

    async def _predict(self, item: predictor_pb2.PredictItem) -> Forecast:
        if self._channel is None:
            self._channel = channel.connect_balanced(self.address)
        stub = predictor_pb2_grpc.PredictorServiceStub(self._channel)
        request = predictor_pb2.PredictRequest(items=[item])
        try:
            response = await stub.Predict(request, timeout=self.timeout_s)
        except grpc.aio.AioRpcError as error:
            raise PredictionFailed(f"{error.code().name}: {error.details()}") from error
        if not isinstance(response, predictor_pb2.PredictResponse):
            raise PredictionFailed("the answer is no PredictResponse")  # grpc gives None for those
        forecast = _sane(response)
        self.state.revision = response.revision
        return forecast


def _sane(response: predictor_pb2.PredictResponse) -> Forecast:
    if len(response.predictions) != 1:
        raise PredictionFailed(f"{len(response.predictions)} predictions for one item")
    tokens = response.predictions[0].expected_tokens
    if not (math.isfinite(tokens) and 0 < tokens <= MAX_TOKENS):
        raise PredictionFailed(f"expected_tokens is {tokens}")
    return Forecast(tokens, _p90_tokens(response.predictions[0]))


def _p90_tokens(prediction: predictor_pb2.Prediction) -> float | None:
    """The quantile at 0.9, as far as there is one that makes sense."""
    for quantile in prediction.quantiles:
        if abs(quantile.probability - P90) < P90_TOLERANCE and 0 < quantile.tokens <= MAX_TOKENS:
            return quantile.tokens
    return None
