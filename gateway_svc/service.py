"""`GatewayService`: the whole story of a request, top to bottom.

Everything that can go wrong leaves as an exception of `ssjf.wire.errors`; the
boundary interceptor turns it into a status. What a request holds is freed by the
context managers it goes through, whatever happens.
"""

from __future__ import annotations

import asyncio
import itertools
import math
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Final

from gateway_svc import metrics, snapshot, translate
from gateway_svc.config import GatewaySettings
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.fleet import Fleet
from gateway_svc.live import LiveRequest, Moments
from gateway_svc.predictor_client import PredictionFailed, PredictorClient, Question
from gateway_svc.scheduling.job import Job
from gateway_svc.validation import ServedModel
from ssjf.engine.v1 import sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import errors, request_id

if TYPE_CHECKING:
    from ssjf.wire.interceptors import Context


MAX_DEADLINE_S: Final = 7 * 86_400.0
"""Longer deadlines are cut to this; no clock or timer here has to cope with centuries."""


class GatewayService(gateway_pb2_grpc.GatewayServiceServicer):
    """The public service."""

    def __init__(
        self,
        settings: GatewaySettings,
        dispatcher: Dispatcher,
        fleet: Fleet,
        predictor: PredictorClient | None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._dispatcher = dispatcher
        self._fleet = fleet
        self._predictor = predictor
        self._clock = clock
        self._job_ids = itertools.count(1)

    async def Generate(  # type: ignore[override]  # noqa: N802  # a coroutine that writes
        self, request: gateway_pb2.GenerateRequest, context: Context
    ) -> None:
        """Streams one answer: queued started delta* finished."""
        received_s = self._clock()
        deadline_s = received_s + _time_remaining_s(context)
        if request_id.is_valid(request.request_id):
            request_id.current.set(request.request_id)
        accepted = False
        try:
            model = self._fleet.served(request.model)
            parsed = self._parse(request, model)
            async with (
                self._reserve(parsed),
                _until(deadline_s - received_s),
                self._ask(parsed, model) as question,
            ):
                prompt = await self._tokenize(parsed)
                sampling = translate.fit(parsed, len(prompt), model)
                forecast = await self._forecast(question, received_s)
                job = self._job(parsed, sampling, len(prompt), forecast, received_s, deadline_s)
                sequence = translate.sequence(job.job_id, parsed, prompt, sampling)
                live = LiveRequest(job, sequence, Moments(received_s), forecast is not None)
                with self._dispatcher.place(live) as queue_length:
                    accepted = True
                    queued = translate.queued(live, queue_length)
                    self._expect_late(question, live)
                    await self._stream(queued, live, context)
        except errors.SsjfError as error:
            if not accepted:
                self._dispatcher.refused(error.reason)
            raise

    async def GetQueue(  # noqa: N802
        self, request: gateway_pb2.GetQueueRequest, context: Context
    ) -> gateway_pb2.GetQueueResponse:
        """A snapshot of the queue."""
        del context
        most = request.max_entries if request.HasField("max_entries") else 100
        return snapshot.queue(self._dispatcher, most, self._clock())

    async def GetServerInfo(  # noqa: N802
        self, request: gateway_pb2.GetServerInfoRequest, context: Context
    ) -> gateway_pb2.GetServerInfoResponse:
        """What the gateway serves, and how."""
        del request, context
        return snapshot.server_info(self._settings, self._fleet, self._predictor)

    # The steps of Generate, in their order ----------------------------------

    def _parse(
        self, request: gateway_pb2.GenerateRequest, model: ServedModel
    ) -> translate.ParsedRequest:
        parsed = translate.parse(
            request,
            model,
            default_max_tokens=self._settings.default_max_tokens,
            benchmark=self._settings.benchmark,
        )
        request_id.current.set(parsed.request_id)
        return parsed

    @asynccontextmanager
    async def _reserve(self, parsed: translate.ParsedRequest) -> AsyncIterator[None]:
        with self._dispatcher.reserve(parsed.request_id, self._settings.max_queued):
            yield

    @asynccontextmanager
    async def _ask(
        self, parsed: translate.ParsedRequest, model: ServedModel
    ) -> AsyncIterator[Question | None]:
        """Starts the prediction; None where there is nothing to ask or no one."""
        item = translate.predict_item(parsed, model.name)
        if self._predictor is None or item is None:
            yield None
            return
        async with self._predictor.ask(item) as question:
            yield question

    async def _tokenize(self, parsed: translate.ParsedRequest) -> tuple[int, ...]:
        request = translate.tokenize_request(parsed)
        if request is None:
            return translate.token_ids(parsed)
        return await self._fleet.tokenize(request, self._settings.tokenize_timeout_s)

    async def _forecast(self, question: Question | None, received_s: float) -> float | None:
        """Predicted output tokens, None where the prior has to stand in."""
        if question is None or self._predictor is None:
            return None
        spent_s = self._clock() - received_s
        budget_s = max(0.0, self._settings.prediction_budget_ms / 1e3 - spent_s)
        try:
            tokens = await question.within(budget_s)
        except PredictionFailed as failure:
            self._dispatcher.prediction_failed()
            self._predictor.note(in_time=False, why=str(failure))
            return None
        if tokens is None:
            self._dispatcher.prediction_late()
        else:
            metrics.PREDICTIONS.labels("in_time").inc()
        self._predictor.note(in_time=tokens is not None, why="late")
        return tokens

    def _job(
        self,
        parsed: translate.ParsedRequest,
        sampling: sampling_pb2.SamplingParams,
        prompt_tokens: int,
        forecast: float | None,
        received_s: float,
        deadline_s: float,
    ) -> Job:
        prior = self._dispatcher.prior.expected_tokens(prompt_tokens)
        return Job(
            job_id=next(self._job_ids),
            request_id=parsed.request_id,
            arrival_s=received_s,
            prompt_tokens=prompt_tokens,
            max_tokens=sampling.max_tokens,
            predicted_tokens=prior if forecast is None else forecast,
            priority=parsed.priority,
            deadline_s=deadline_s,
        )

    def _expect_late(self, question: Question | None, live: LiveRequest) -> None:
        """A prediction that missed its budget re-keys the job when it comes."""
        if question is None or live.from_model:
            return

        def take(tokens: float | None) -> None:
            if tokens is None:
                self._dispatcher.prediction_failed()
            else:
                self._dispatcher.reprice(live.job.job_id, tokens)

        if not question.failed:
            question.when_answered(take)

    async def _stream(
        self, queued: gateway_pb2.GenerateResponse, live: LiveRequest, context: Context
    ) -> None:
        await self._write(context, queued)
        ended = False
        while not ended:
            await live.changed()
            ended = live.ended  # before `take`: what comes while we write is the next turn's
            for event in live.take():
                await self._write(context, event)
        if live.error is not None:
            raise live.error
        now_s = self._clock()
        self._dispatcher.observe_finished(live, now_s)
        await self._write(context, translate.finished(live, now_s))

    async def _write(self, context: Context, event: gateway_pb2.GenerateResponse) -> None:
        try:
            async with asyncio.timeout(self._settings.stall_timeout_s):
                await context.write(event)
        except TimeoutError as stalled:
            seconds = self._settings.stall_timeout_s
            raise errors.SlowConsumer(f"nothing was read for {seconds:g} s") from stalled


@asynccontextmanager
async def _until(delay_s: float) -> AsyncIterator[None]:
    """Raises DeadlinePassed where the block takes longer than `delay_s` seconds."""
    try:
        async with asyncio.timeout(None if math.isinf(delay_s) else delay_s):
            yield
    except TimeoutError as passed:
        raise errors.DeadlinePassed("the deadline passed") from passed


def _time_remaining_s(context: Context) -> float:
    """Seconds to the client's deadline, read once: the library's reading uses the wall clock."""
    remaining_s = context.time_remaining()
    return math.inf if remaining_s is None else min(remaining_s, MAX_DEADLINE_S)
