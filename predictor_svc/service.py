"""`ssjf.predictor.v1.PredictorService`: the story of a call.

Owns admission while draining and the mapping of the pipeline's refusals to the contract's
errors. Everything else is `translate` and `pipeline`.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import Any

from predictor_svc import metrics
from predictor_svc.batcher import BatcherFull
from predictor_svc.model_dir import Manifest
from predictor_svc.pipeline import Pipeline
from predictor_svc.translate import parse, prediction_message
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire.errors import Draining, Overloaded, SsjfError

RETRY_AFTER_S = 0.1


@dataclass(frozen=True, slots=True)
class ServedModel:
    """What predicts, for GetPredictorInfo."""

    manifest: Manifest
    execution_provider: str
    max_items: int


class PredictorService(predictor_pb2_grpc.PredictorServiceServicer):
    """Predicts; refuses once it drains."""

    def __init__(self, pipeline: Pipeline, served: ServedModel) -> None:
        self._pipeline = pipeline
        self._served = served
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
            metrics.CALLS.labels(outcome).inc()
            self._calls -= 1
            if self._calls == 0:
                self._idle.set()

    async def GetPredictorInfo(  # noqa: N802
        self,
        request: predictor_pb2.GetPredictorInfoRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> predictor_pb2.GetPredictorInfoResponse:
        """What predicts, and on what."""
        config = self._served.manifest.config
        return predictor_pb2.GetPredictorInfoResponse(
            revision=self._served.manifest.revision,
            task=config.task,
            model=config.llm,
            execution_provider=self._served.execution_provider,
            max_input_tokens=config.max_input_tokens,
            max_items=self._served.max_items,
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
        queries = parse(request, self._served.max_items)
        try:
            predictions = await self._pipeline.predict(queries)
        except BatcherFull as full:
            raise Overloaded("predictor queue", str(full), RETRY_AFTER_S) from full
        return predictor_pb2.PredictResponse(
            predictions=[prediction_message(each) for each in predictions],
            revision=self._served.manifest.revision,
        )
