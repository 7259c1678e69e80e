"""A real gRPC server with the predictor's contract, in a thread: answers, and counts prompts."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field

import grpc

from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc


@dataclass
class FakePredictor(predictor_pb2_grpc.PredictorServiceServicer):
    """Answers each item with one token; `refuse_after` calls it refuses, `drop` loses an item."""

    refuse_after: int | None = None
    drop: bool = False
    revision: str = "0123456789abcdef"
    provider: str = "CPUExecutionProvider"
    prompts: list[str] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def Predict(  # noqa: N802 (the contract's name)
        self, request: predictor_pb2.PredictRequest, context: grpc.ServicerContext
    ) -> predictor_pb2.PredictResponse:
        with self._lock:
            self.sizes.append(len(request.items))
            self.prompts.extend(item.prompt for item in request.items)
            refuse = self.refuse_after is not None and len(self.sizes) > self.refuse_after
        if refuse:
            context.abort(grpc.StatusCode.RESOURCE_EXHAUSTED, "the queue is full")
        answered = len(request.items) - self.drop
        prediction = predictor_pb2.Prediction(expected_tokens=1)
        return predictor_pb2.PredictResponse(predictions=[prediction] * answered)

    def GetPredictorInfo(  # noqa: N802 (the contract's name)
        self,
        request: predictor_pb2.GetPredictorInfoRequest,  # noqa: ARG002
        context: grpc.ServicerContext,  # noqa: ARG002
    ) -> predictor_pb2.GetPredictorInfoResponse:
        return predictor_pb2.GetPredictorInfoResponse(
            revision=self.revision, execution_provider=self.provider
        )


@contextmanager
def serving(predictor: FakePredictor) -> Iterator[str]:
    """Its address, while it runs."""
    server = grpc.server(ThreadPoolExecutor(4))
    predictor_pb2_grpc.add_PredictorServiceServicer_to_server(predictor, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()
