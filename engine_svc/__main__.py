"""Starts the engine: its loop in a thread or a process of its own, and what serves it.

The composition root: it makes every part and owns none of the work.
"""

from __future__ import annotations

import asyncio
import gc
import os
import socket
from collections.abc import Coroutine
from typing import Any

import torch

from engine_svc import loop_process, loop_thread, translate
from engine_svc.config import EngineSettings
from engine_svc.loop import EngineLoop
from engine_svc.messages import Stop
from engine_svc.service import EngineService
from engine_svc.token_texts import of_tokenizer
from engine_svc.translate import Bounds
from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc
from ssjf.wire import logs, metrics
from ssjf.wire.run import StartupError, main_entry
from ssjf.wire.schema import SCHEMA_REVISION
from ssjf.wire.server import check_address, listen, serve_until_signal

SERVICE = "ssjf.engine.v1.EngineService"


def service_of(loop: EngineLoop, settings: EngineSettings) -> EngineService:
    """The gRPC service of an engine."""
    ready, tokenizer = loop.ready, loop.tokenizer
    welcome = engine_pb2.Welcome(
        engine_id=f"{socket.gethostname()}-{os.getpid()}",
        schema_revision=SCHEMA_REVISION,
        model=translate.model_info(ready, tokenizer, settings.model_name),
        limits=translate.limits(ready),
        batching_modes=translate.MODES,
        benchmark=settings.benchmark,
    )
    bounds = Bounds(
        vocabulary_size=ready.vocabulary_size,
        max_context_tokens=ready.max_context_tokens,
        benchmark=settings.benchmark,
    )
    return EngineService(
        commands=loop,
        tokenizer=tokenizer,
        texts=of_tokenizer(tokenizer, ready.vocabulary_size),
        bounds=bounds,
        welcome=welcome,
    )


async def start_loop(settings: EngineSettings) -> EngineLoop:
    """Starts the engine loop where it is to run. Raises StartupError."""
    on_cuda = settings.device == "cuda" or (settings.device == "auto" and torch.cuda.is_available())
    where = ("process" if on_cuda else "thread") if settings.loop == "auto" else settings.loop
    if where == "process":
        return await loop_process.start(settings)
    return await loop_thread.start(settings)


async def serve(settings: EngineSettings) -> None:
    """Serves until a signal; raises StartupError where the engine cannot start or breaks."""
    check_address(settings)  # before the model, which takes seconds
    loop = await start_loop(settings)
    logs.get_logger().info("model loaded", device=loop.ready.device)
    service = service_of(loop, settings)
    # What is there now stays: collecting garbage need not walk through it between two steps.
    gc.collect()
    gc.freeze()
    stop_metrics = metrics.serve(settings.metrics_port, settings.metrics_host)
    listening = await listen(
        settings,
        {
            SERVICE: lambda server: engine_pb2_grpc.add_EngineServiceServicer_to_server(
                service, server
            )
        },
    )
    try:
        await listening.health.set_all(serving=True)
        await _until_either_ends(
            serve_until_signal(listening, service.drain, settings.drain_timeout_s), loop.ended
        )
        loop.post(Stop())
        await loop.ended
    finally:
        await listening.server.stop(grace=None)
        stop_metrics()


async def _until_either_ends(
    serving: Coroutine[Any, Any, None], loop_ended: asyncio.Future[None]
) -> None:
    """Returns when `serving` does; raises StartupError where the engine loop ends before it."""
    task = asyncio.ensure_future(serving)
    await asyncio.wait([task, loop_ended], return_when=asyncio.FIRST_COMPLETED)
    if task.done():
        return task.result()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    error = loop_ended.exception()
    logs.get_logger().error("the engine loop broke", exc_info=error)
    raise StartupError(f"the engine loop broke: {error}")


def main() -> None:
    """The command `python -m engine_svc`."""
    main_entry("engine_svc", EngineSettings, serve)


if __name__ == "__main__":
    main()
