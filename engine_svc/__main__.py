"""Starts the engine: loads the model, runs the loop in a thread, serves.

The composition root: it makes every part and owns none of the work.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Coroutine
from typing import Any

from engine_svc import translate
from engine_svc.assembly import Assembled, assemble
from engine_svc.config import EngineSettings
from engine_svc.messages import Stop
from engine_svc.service import EngineService
from engine_svc.translate import Bounds
from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc
from ssjf.wire import logs, metrics
from ssjf.wire.run import StartupError, main_entry
from ssjf.wire.schema import SCHEMA_REVISION
from ssjf.wire.server import check_address, listen, serve_until_signal

SERVICE = "ssjf.engine.v1.EngineService"


def service_of(assembled: Assembled, settings: EngineSettings) -> EngineService:
    """The gRPC service of an engine."""
    loaded, shape = assembled.loaded, assembled.shape
    welcome = engine_pb2.Welcome(
        engine_id=f"{socket.gethostname()}-{os.getpid()}",
        schema_revision=SCHEMA_REVISION,
        model=translate.model_info(loaded, settings.model_name),
        limits=translate.limits(shape),
        batching_modes=translate.batching_modes(shape),
        benchmark=settings.benchmark,
    )
    bounds = Bounds(
        vocabulary_size=loaded.config.vocabulary_size,
        max_context_tokens=shape.max_context_tokens,
        benchmark=settings.benchmark,
    )
    return EngineService(
        mailbox=assembled.mailbox, tokenizer=loaded.tokenizer, bounds=bounds, welcome=welcome
    )


def start_loop(run: Callable[[], None]) -> asyncio.Future[None]:
    """Runs the engine loop in a thread; the future holds what ended it."""
    loop = asyncio.get_running_loop()
    ended: asyncio.Future[None] = loop.create_future()

    def work() -> None:
        try:
            run()
        except BaseException as error:
            loop.call_soon_threadsafe(ended.set_exception, error)
        else:
            loop.call_soon_threadsafe(ended.set_result, None)

    # A daemon: a thread that hangs in a broken device must not keep the process alive.
    threading.Thread(target=work, name="engine", daemon=True).start()
    return ended


async def serve(settings: EngineSettings) -> None:
    """Serves until a signal; raises StartupError where the engine cannot start or breaks."""
    log = logs.get_logger()
    check_address(settings)  # before the model, which takes seconds
    assembled = await asyncio.to_thread(assemble, settings)
    log.info("model loaded", device=str(assembled.loaded.model.device))
    service = service_of(assembled, settings)
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
        loop_ended = start_loop(assembled.engine.run_forever)
        await listening.health.set_all(serving=True)
        await _until_either_ends(
            serve_until_signal(listening, service.drain, settings.drain_timeout_s), loop_ended
        )
        assembled.mailbox.post(Stop())
        await loop_ended
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
    raise StartupError(f"the engine loop broke: {type(error).__name__}")


def main() -> None:
    """The command `python -m engine_svc`."""
    main_entry("engine_svc", EngineSettings, serve)


if __name__ == "__main__":
    main()
