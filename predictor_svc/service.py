"""`ssjf.predictor.v1.PredictorService`: the story of a call.

Owns admission while draining and the mapping of the pipeline's refusals to the contract's
errors. Everything else is `translate`, `models` and `pipeline`.
"""

from __future__ import annotations

import asyncio
from typing import Any

from predictor_svc import metrics
from predictor_svc.batcher import BatcherFull
from predictor_svc.llm_notes import LlmNotes
from predictor_svc.models import Models
from predictor_svc.predictions import NotFinite
from predictor_svc.translate import parse, response_message
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire.errors import Draining, NumericFault, Overloaded, SsjfError

RETRY_AFTER_S = 0.1


class PredictorService(predictor_pb2_grpc.PredictorServiceServicer):
    """Predicts; refuses once it drains."""

    def __init__(self, models: Models, max_items: int) -> None:
        self._models = models
        self._max_items = max_items
        self._llms = LlmNotes()
        self._calls = 0
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def Predict(  # noqa: N802
        self,
        request: predictor_pb2.PredictRequest,
        context: Any,  # noqa: ARG002
    ) -> predictor_pb2.PredictResponse:
        """Predictions in the order of the items."""
        self._calls += 1
        self._idle.clear()
        outcome = "failed"
        try:
            response = await self._predict(request)
        except SsjfError as error:
            outcome = error.reason.lower()
            raise
        except asyncio.CancelledError:
            outcome = "cancelled"
            raise
        else:
            outcome = "ok"
            return response
        finally:
            metrics.count_call(outcome)
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()

    async def GetPredictorInfo(  # noqa: N802
        self,
        request: predictor_pb2.GetPredictorInfoRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> predictor_pb2.GetPredictorInfoResponse:
        """What predicts now, and on what."""
        model = self._models.current.model
        config = model.manifest.config
        return predictor_pb2.GetPredictorInfoResponse(
            revision=model.manifest.revision,
            task=config.task,
            model=config.llm,
            execution_provider=model.session.provider,
            max_input_tokens=config.input.max_tokens,
            max_items=self._max_items,
        )

    async def drain(self) -> None:
        """Refuses new calls and returns when those under way have ended."""
        self._draining = True
        await self._idle.wait()

    async def _predict(
        self, request: predictor_pb2.PredictRequest
    ) -> predictor_pb2.PredictResponse:
        if self._draining:
            raise Draining("the predictor is shutting down", retry_after_s=1.0)
        queries = parse(request, self._max_items)
        # One model for the whole call: a swap meanwhile does not mix two revisions.
        serving = self._models.current
        form = serving.model.manifest.config.input
        self._llms.note((query.text.llm for query in queries), form)
        try:
            predictions = await serving.pipeline.predict(queries)
        except BatcherFull as full:
            raise Overloaded("predictor queue", str(full), RETRY_AFTER_S) from full
        except NotFinite as fault:
            raise NumericFault(str(fault)) from fault
        return response_message(predictions, serving.model.manifest.revision)
