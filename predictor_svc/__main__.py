"""Composition root of the predictor: `python -m predictor_svc --help`."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial

from predictor_svc import metrics as series
from predictor_svc.batcher import BatchLimits
from predictor_svc.cache import OutputCache
from predictor_svc.config import PredictorSettings
from predictor_svc.loaded import LoadedModel, LoadOptions, ModelRefused, load
from predictor_svc.models import Models
from predictor_svc.pipeline import Pipeline
from predictor_svc.service import PredictorService
from predictor_svc.session import SessionOptions
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import metrics, server
from ssjf.wire.logs import get_logger
from ssjf.wire.run import StartupError, main_entry

SWITCH_INTERVAL_S = 0.0005
"""How long one thread may keep the interpreter while another wants it. The thread that has run
a batch wants it between the event loop's calls; Python's 5 ms is ten batches on a GPU."""
SERVICE = predictor_pb2.DESCRIPTOR.services_by_name["PredictorService"].full_name


async def serve(settings: PredictorSettings) -> None:
    """Runs the predictor until a signal has stopped it."""
    server.check_address(settings)  # before the model, which takes seconds
    models = models_of(settings)
    try:
        await models.start()
    except ModelRefused as refused:
        raise StartupError(str(refused)) from refused
    if models.current.model.fell_back:
        get_logger().warning("CUDA cannot be used: the model runs on the CPU")
    sys.setswitchinterval(SWITCH_INTERVAL_S)
    # What is there now stays: collecting garbage need not walk through it between two calls.
    gc.collect()
    gc.freeze()
    stop_metrics = metrics.serve(settings.metrics_port, settings.metrics_host)
    async with models, _watching(models, settings.watch_interval_s):
        service = PredictorService(models, settings.max_items)
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


def models_of(settings: PredictorSettings) -> Models:
    """The owner of the model in the settings' folder."""
    options = LoadOptions(
        settings.model_dir,
        settings.precision,
        SessionOptions(
            provider=settings.provider,
            threads=settings.threads,
            max_batch=settings.max_batch,
            cuda_graphs=settings.cuda_graphs,
        ),
    )
    limits = BatchLimits(settings.max_batch, settings.max_wait_ms / 1000, settings.max_queue_items)
    reporter = series.Reporter()

    def pipeline_of(model: LoadedModel) -> Pipeline:
        return Pipeline(model, limits, OutputCache(settings.cache_items), reporter)

    return Models(settings.model_dir, partial(load, options), pipeline_of, reporter)


@asynccontextmanager
async def _watching(models: Models, interval_s: float) -> AsyncIterator[None]:
    """Looks after the model's folder meanwhile; 0 does not."""
    watching = asyncio.create_task(models.watch(interval_s)) if interval_s else None
    try:
        yield
    finally:
        if watching is not None:
            watching.cancel()
            await asyncio.gather(watching, return_exceptions=True)


if __name__ == "__main__":
    main_entry("predictor_svc", PredictorSettings, serve)
