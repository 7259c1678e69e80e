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
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from gateway_svc import metrics, translate
from gateway_svc.admission import Admission
from gateway_svc.config import GatewaySettings
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.fleet import Fleet
from gateway_svc.live import LiveRequest, Moments
from gateway_svc.predictor_client import Forecast, PredictionFailed, PredictorClient, Question
from gateway_svc.prior import PromptLengthPrior
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.quota import CoreFull
from gateway_svc.snapshot import Snapshots
from gateway_svc.stall import Writer, guarded_writer
from gateway_svc.tenants import Rules, Tenants
from gateway_svc.validation import ServedModel
from ssjf.engine.v1 import sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import auth, errors, request_id

if TYPE_CHECKING:
    from ssjf.wire.interceptors import Context


MAX_DEADLINE_S: Final = 7 * 86_400.0
"""Longer deadlines are cut to this; no clock or timer here has to cope with centuries."""


@dataclass(frozen=True, slots=True)
class Parts:
    """What the service is made of."""

    admission: Admission
    dispatcher: Dispatcher
    fleet: Fleet
    predictor: PredictorClient | None
    prior: PromptLengthPrior
    snapshots: Snapshots
    tenants: Tenants


class GatewayService(gateway_pb2_grpc.GatewayServiceServicer):
    """The public service."""

    def __init__(
        self,
        settings: GatewaySettings,
        parts: Parts,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._settings = settings
        self._parts = parts
        self._dispatcher = parts.dispatcher
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
            rules = self._rules()
            model = self._parts.fleet.served(request.model)
            parsed = self._parse(request, model)
            interval_s = request.stream.delta_interval_ms / 1e3
            del request  # with its prompt: a queue of thousands would hold them all
            async with (
                self._enter(parsed, rules),
                _until(deadline_s - received_s),
                self._ask(parsed, model) as question,
            ):
                prompt = await self._tokenize(parsed)
                sampling = translate.fit(parsed, len(prompt), model)
                forecast = await self._forecast(question, received_s)
                job = self._job(
                    parsed, rules, sampling, len(prompt), forecast, received_s, deadline_s
                )
                self._parts.admission.check_deadline(job, self._clock())
                sequence = translate.sequence(job, parsed, prompt, sampling)
                live = LiveRequest(job, sequence, Moments(received_s), forecast is not None)
                del parsed, prompt
                with self._dispatcher.place(live) as queue_length:
                    accepted = True
                    queued = translate.queued(live, queue_length)
                    self._expect_late(question, live)
                    await self._stream(queued, live, interval_s, context)
        except CoreFull as limit:
            full = self._parts.admission.full(limit)
            self._dispatcher.refused(full.reason)
            raise full from limit
        except errors.SsjfError as error:
            if not accepted:
                self._dispatcher.refused(error.reason)
            raise

    async def GetQueue(  # noqa: N802
        self, request: gateway_pb2.GetQueueRequest, context: Context
    ) -> gateway_pb2.GetQueueResponse:
        """A snapshot of the queue."""
        del context
        auth.require_admin()
        return self._parts.snapshots.queue(translate.max_entries(request))

    async def WatchQueue(  # type: ignore[override]  # noqa: N802  # a coroutine that writes
        self, request: gateway_pb2.WatchQueueRequest, context: Context
    ) -> None:
        """Snapshots of the queue, until the client has enough or stops reading."""
        auth.require_admin()
        interval_s = translate.watch_interval_s(request)
        most = translate.max_entries(request)
        async with guarded_writer(context, self._settings.stall_timeout_s) as writer:
            while True:
                queue = self._parts.snapshots.queue(most)
                await writer.write(gateway_pb2.WatchQueueResponse(queue=queue))
                await asyncio.sleep(interval_s)

    async def GetServerInfo(  # noqa: N802
        self, request: gateway_pb2.GetServerInfoRequest, context: Context
    ) -> gateway_pb2.GetServerInfoResponse:
        """What the gateway serves, and how."""
        del request, context
        return self._parts.snapshots.server_info()

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

    def _rules(self) -> Rules:
        try:
            return self._parts.tenants.of(auth.current.get())
        except KeyError:  # the tenant has just been taken out of the file
            raise errors.Unauthenticated("the bearer token is not known") from None

    @asynccontextmanager
    async def _enter(self, parsed: translate.ParsedRequest, rules: Rules) -> AsyncIterator[None]:
        with self._parts.admission.enter(parsed.request_id, rules.tenant):
            yield

    @asynccontextmanager
    async def _ask(
        self, parsed: translate.ParsedRequest, model: ServedModel
    ) -> AsyncIterator[Question | None]:
        """Starts the prediction; None where there is nothing to ask or no one."""
        item = translate.predict_item(parsed, model.name)
        if self._parts.predictor is None or item is None:
            yield None
            return
        async with self._parts.predictor.ask(item) as question:
            yield question

    async def _tokenize(self, parsed: translate.ParsedRequest) -> tuple[int, ...]:
        request = translate.tokenize_request(parsed)
        if request is None:
            return translate.token_ids(parsed)
        return await self._parts.fleet.tokenize(request, self._settings.tokenize_timeout_s)

    async def _forecast(self, question: Question | None, received_s: float) -> Forecast | None:
        """The prediction, None where the prior has to stand in."""
        predictor = self._parts.predictor
        if question is None or predictor is None:
            return None
        if self._starts_at_once() and not question.answer.done():
            self._dispatcher.prediction_skipped()
            return None
        spent_s = self._clock() - received_s
        budget_s = max(0.0, self._settings.prediction_budget_ms / 1e3 - spent_s)
        try:
            forecast = await question.within(budget_s)
        except PredictionFailed as failure:
            self._dispatcher.prediction_failed()
            predictor.note(in_time=False, why=str(failure))
            return None
        if forecast is None:
            self._dispatcher.prediction_late()
        else:
            metrics.PREDICTIONS.labels("in_time").inc()
        predictor.note(in_time=forecast is not None, why="late")
        return forecast

    def _starts_at_once(self) -> bool:
        """Whether the length of a request that comes now makes no difference."""
        return self._settings.skip_idle_predictions and self._parts.admission.place_is_free

    def _job(
        self,
        parsed: translate.ParsedRequest,
        rules: Rules,
        sampling: sampling_pb2.SamplingParams,
        prompt_tokens: int,
        forecast: Forecast | None,
        received_s: float,
        deadline_s: float,
    ) -> Job:
        tokens = forecast.tokens if forecast else self._parts.prior.expected_tokens(prompt_tokens)
        p90_tokens = forecast.p90_tokens if forecast else None
        by_prediction = self._settings.kv_reserve == "predicted"
        return Job(
            job_id=next(self._job_ids),
            request_id=parsed.request_id,
            arrival_s=received_s,
            prompt_tokens=prompt_tokens,
            max_tokens=sampling.max_tokens,
            predicted_tokens=tokens,
            priority=rules.clamp(parsed.priority),
            deadline_s=deadline_s,
            tenant=rules.tenant.name,
            predicted_p90_tokens=p90_tokens,
            reserved_kv_tokens=_reserved(prompt_tokens, sampling.max_tokens, p90_tokens)
            if by_prediction
            else None,
        )

    def _expect_late(self, question: Question | None, live: LiveRequest) -> None:
        """A prediction that was not waited for to its end re-keys the job when it comes."""
        predictor = self._parts.predictor
        if question is None or predictor is None or live.from_model:
            return
        in_time_until_s = live.moments.received_s + self._settings.prediction_budget_ms / 1e3

        def take(forecast: Forecast | None) -> None:
            if forecast is None:
                self._dispatcher.prediction_failed()
                predictor.note(in_time=False, why="no answer")
                return
            self._dispatcher.foretold(live.job.job_id, forecast)
            if self._clock() <= in_time_until_s:
                predictor.note(in_time=True, why="")

        if not question.failed:
            question.when_answered(take)

    async def _stream(
        self,
        queued: gateway_pb2.GenerateResponse,
        live: LiveRequest,
        interval_s: float,
        context: Context,
    ) -> None:
        async with guarded_writer(context, self._settings.stall_timeout_s) as writer:
            await writer.write(queued)
            await self._write_answer(live, interval_s, writer)
            if live.error is not None:
                raise live.error
            await writer.write(translate.finished(live, self._clock()))

    async def _write_answer(self, live: LiveRequest, interval_s: float, writer: Writer) -> None:
        ended = False
        while not ended:
            await live.changed()
            ended = live.ended  # before `take`: what comes while we write is the next turn's
            for event in live.take():
                await writer.write(event)
            if interval_s and live.output_tokens:
                await live.rest(interval_s)


def _reserved(prompt_tokens: int, max_tokens: int, p90_tokens: float | None) -> int | None:
    """KV tokens to reserve by prediction; None, which is all, without one."""
    if p90_tokens is None:
        return None
    return prompt_tokens + min(max_tokens, max(1, math.ceil(p90_tokens)))


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
