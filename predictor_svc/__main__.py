"""Composition root of the predictor: `python -m predictor_svc --help`."""

from __future__ import annotations

import asyncio

from predictor_svc import metrics as series
from predictor_svc.batcher import BUCKETS_TOKENS, BatchLimits
from predictor_svc.config import PredictorSettings
from predictor_svc.encoder import load_encoder
from predictor_svc.model_dir import ModelDir, ModelDirError, open_model_dir
from predictor_svc.pipeline import Pipeline
from predictor_svc.service import PredictorService, ServedModel
from predictor_svc.session import Session, SessionError
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import metrics, server
from ssjf.wire.logs import get_logger
from ssjf.wire.run import StartupError, main_entry

SERVICE = predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name


async def serve(settings: PredictorSettings) -> None:
    """Runs the predictor until a signal has stopped it."""
    model, session = load(settings)
    await asyncio.to_thread(warm_up, session, model.manifest.config.max_input_tokens)
    series.INFO.labels(session.provider, model.manifest.revision).set(1)
    if session.fell_back:
        get_logger().warning("CUDA cannot be used: the model runs on the CPU")
    get_logger().info("model loaded", revision=model.manifest.revision, provider=session.provider)
    stop_metrics = metrics.serve(settings.metrics_port, settings.metrics_host)
    pipeline = Pipeline(
        load_encoder(model.tokenizer, model.manifest.config.max_input_tokens),
        session,
        model.manifest.config,
        BatchLimits(settings.max_batch, settings.max_wait_ms / 1000, settings.max_queue_items),
        series.Reporter(),
    )
    async with pipeline:
        served = ServedModel(model.manifest, session.provider, settings.max_items)
        service = PredictorService(pipeline, served)
        listening = await server.listen(
            settings,
            {
                SERVICE: lambda to: predictor_pb2_grpc.add_PredictorServiceServicer_to_server(
                    service, to
                )
            },
        )
        await listening.health.set_all(serving=True)
        await server.serve_until_signal(listening, service.drain, settings.drain_timeout_s)
    stop_metrics()


def load(settings: PredictorSettings) -> tuple[ModelDir, Session]:
    """The model's folder and its session. Raises StartupError."""
    try:
        model = open_model_dir(settings.model_dir)
        session = Session(model.graph, settings.provider, settings.threads)
    except (ModelDirError, SessionError) as error:
        raise StartupError(str(error)) from error
    return model, session


def warm_up(session: Session, max_input_tokens: int) -> None:
    """Runs every bucket once: the first run of a shape allocates and picks kernels."""
    for tokens in BUCKETS_TOKENS:
        session.run([[0] * min(tokens, max_input_tokens)])


if __name__ == "__main__":
    main_entry("predictor_svc", PredictorSettings, serve)
