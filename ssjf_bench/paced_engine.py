"""An engine without a model, for measuring what is in front of engines.

A real `EngineService` in a process of its own: every `step_ms` each running sequence
gets one token, until it has as many as its benchmark_payload, or else max_tokens, says.
It serves one gateway's stream after the other, as a real engine does. Started by
`ssjf bench gateway`: `python -m ssjf_bench.paced_engine --help`.
"""

from __future__ import annotations

import asyncio
import hashlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from pydantic import Field
from pydantic_settings import SettingsConfigDict

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc, sampling_pb2
from ssjf.wire import errors, server
from ssjf.wire.run import main_entry
from ssjf.wire.schema import SCHEMA_REVISION
from ssjf.wire.settings import SETTINGS, ServiceSettings

if TYPE_CHECKING:
    from ssjf.wire.interceptors import Context

VOCABULARY: Final = 50_000
HEARTBEAT_S: Final = 1.0
WORD: Final = " word"
SERVICE: Final = engine_pb2.DESCRIPTOR.services_by_name["EngineService"].full_name


class PacedEngineSettings(ServiceSettings):
    """Settings of the engine without a model (environment: SSJF_PACED_ENGINE_…)."""

    model_config = SETTINGS | SettingsConfigDict(
        env_prefix="SSJF_PACED_ENGINE_", cli_prog_name="ssjf_bench.paced_engine"
    )

    step_ms: float = Field(default=10.0, ge=0, le=60_000)
    """Milliseconds from one step to the next; 0 steps as fast as its messages are taken."""
    max_sequences: int = Field(default=256, ge=1, le=100_000)
    """Sequences that run at once."""
    max_context_tokens: int = Field(default=100_000, ge=2, le=10_000_000)
    """Prompt plus answer."""
    kv_tokens: int = Field(default=100_000_000, ge=2)
    """Tokens of KV cache that it pretends to have."""


@dataclass(slots=True)
class _Running:
    wanted: int
    kv_tokens: int
    prompt_tokens: int
    given: int = 0


class PacedEngine(engine_pb2_grpc.EngineServiceServicer):
    """The service; state of the one stream that it serves at a time."""

    def __init__(self, settings: PacedEngineSettings) -> None:
        self._settings = settings
        self._running: dict[int, _Running] = {}
        self._batch_id = 0
        self._taken = False
        self._steps = 0
        self._work = asyncio.Event()

    async def Tokenize(  # noqa: N802
        self, request: engine_pb2.TokenizeRequest, context: Context
    ) -> engine_pb2.TokenizeResponse:
        """A token a word."""
        del context
        words = [request.prompt, *(message.content for message in request.chat.messages)]
        count = sum(len(each.split()) for each in words)
        return engine_pb2.TokenizeResponse(token_ids=range(count))

    async def GetModelInfo(  # noqa: N802
        self, request: engine_pb2.GetModelInfoRequest, context: Context
    ) -> engine_pb2.GetModelInfoResponse:
        """The model that it pretends to serve."""
        del request, context
        return engine_pb2.GetModelInfoResponse(model=_model(), limits=self._limits())

    async def Serve(  # type: ignore[override]  # noqa: N802  # a coroutine that writes
        self, requests: AsyncIterator[engine_pb2.ServeRequest], context: Context
    ) -> None:
        """Runs what it is sent."""
        if self._taken:
            raise errors.AlreadyServing("a gateway is connected")
        self._taken, self._batch_id = True, 0
        answering: asyncio.Task[None] | None = None
        try:
            async for request in requests:
                if request.HasField("hello"):
                    await context.write(engine_pb2.ServeResponse(welcome=self._welcome(request)))
                    answering = asyncio.create_task(self._answer(context))
                self._take(request)
        finally:
            self._taken = False
            self._running.clear()
            if answering is not None:
                answering.cancel()
                await asyncio.gather(answering, return_exceptions=True)

    def _take(self, request: engine_pb2.ServeRequest) -> None:
        for sequence in request.batch.sequences:
            self._running[sequence.sequence_id] = _running(sequence)
        self._batch_id = max(self._batch_id, request.batch.batch_id)
        for number in request.cancel.sequence_ids:
            self._running.pop(number, None)
        if request.HasField("batch") or request.HasField("cancel"):
            self._work.set()

    async def _answer(self, context: Any) -> None:
        """Says what is free, steps while there is work, and beats its heart."""
        await context.write(self._capacity())
        step_s, beats, beat_s = self._settings.step_ms / 1e3, 0, time.monotonic()
        due_s = time.monotonic()
        while True:
            if not self._running:
                await self._next_work(context)
                due_s = time.monotonic()
            for message in self._step():
                await context.write(message)
            if (now_s := time.monotonic()) - beat_s > HEARTBEAT_S:
                beats, beat_s = beats + 1, now_s
                heartbeat = engine_pb2.Heartbeat(count=beats)
                await context.write(engine_pb2.ServeResponse(heartbeat=heartbeat))
            due_s = max(due_s + step_s, now_s - step_s)  # a late step is not made up for
            await asyncio.sleep(max(0.0, due_s - now_s))

    async def _next_work(self, context: Any) -> None:
        """Returns once something runs; tells of every change on the way."""
        while not self._running:
            try:
                async with asyncio.timeout(HEARTBEAT_S):
                    await self._work.wait()
            except TimeoutError:
                await context.write(engine_pb2.ServeResponse(heartbeat=engine_pb2.Heartbeat()))
                continue
            self._work.clear()
            await context.write(self._capacity())

    def _step(self) -> list[engine_pb2.ServeResponse]:
        """One token a sequence, with the ends; then what is free where it changed."""
        self._steps += 1
        indices = [running.given for running in self._running.values()]
        step = engine_pb2.StepOutput(
            step=self._steps,
            sequence_ids=list(self._running),
            indices=indices,
            token_ids=[index % VOCABULARY for index in indices],
            texts=[WORD] * len(indices),
            finished=self._advance(),
        )
        messages = [engine_pb2.ServeResponse(step=step)]
        if step.finished or self._work.is_set():
            self._work.clear()
            messages.append(self._capacity())
        return messages

    def _advance(self) -> list[engine_pb2.SequenceFinished]:
        """Counts a token for every sequence; those that have all of theirs."""
        for running in self._running.values():
            running.given += 1
        ended = [number for number, each in self._running.items() if each.given >= each.wanted]
        return [self._finished(number) for number in ended]

    def _finished(self, number: int) -> engine_pb2.SequenceFinished:
        running = self._running.pop(number)
        return engine_pb2.SequenceFinished(
            sequence_id=number,
            reason=sampling_pb2.FINISH_REASON_EOS,
            prompt_tokens=running.prompt_tokens,
            output_tokens=running.given,
        )

    def _capacity(self) -> engine_pb2.ServeResponse:
        used = sum(running.kv_tokens for running in self._running.values())
        capacity = engine_pb2.Capacity(
            free_sequences=self._settings.max_sequences - len(self._running),
            free_kv_tokens=max(0, self._settings.kv_tokens - used),
            running_sequences=len(self._running),
            batch_id=self._batch_id,
        )
        return engine_pb2.ServeResponse(capacity=capacity)

    def _limits(self) -> engine_pb2.EngineLimits:
        return engine_pb2.EngineLimits(
            max_sequences=self._settings.max_sequences,
            max_context_tokens=self._settings.max_context_tokens,
            kv_tokens=self._settings.kv_tokens,
        )

    def _welcome(self, request: engine_pb2.ServeRequest) -> engine_pb2.Welcome:
        return engine_pb2.Welcome(
            engine_id="paced",
            schema_revision=SCHEMA_REVISION,
            epoch=request.hello.epoch,
            model=_model(),
            limits=self._limits(),
            batching_modes=[
                engine_pb2.BATCHING_MODE_NONE,
                engine_pb2.BATCHING_MODE_DYNAMIC,
                engine_pb2.BATCHING_MODE_CONTINUOUS,
            ],
            benchmark=True,
        )


def _running(sequence: engine_pb2.Sequence) -> _Running:
    forced = engine_pb2.BenchmarkPayload.FromString(sequence.benchmark_payload)
    most = sequence.sampling.max_tokens
    prompt_tokens = len(sequence.prompt_token_ids)
    wanted = min(forced.forced_output_tokens or most, most)
    return _Running(wanted, prompt_tokens + most, prompt_tokens)


def _model() -> engine_pb2.ModelInfo:
    digest = hashlib.sha256(b"paced").hexdigest()
    return engine_pb2.ModelInfo(
        name="paced", vocabulary_size=VOCABULARY, vocabulary_hash=digest, architecture="none"
    )


async def serve(settings: PacedEngineSettings) -> None:
    """Runs the engine until a signal has stopped it."""
    engine = PacedEngine(settings)
    add = partial(engine_pb2_grpc.add_EngineServiceServicer_to_server, engine)
    listening = await server.listen(settings, {SERVICE: add})
    await listening.health.set_all(serving=True)
    await server.serve_until_signal(listening, _nothing_to_wait_for, settings.drain_timeout_s)


async def _nothing_to_wait_for() -> None:
    return


if __name__ == "__main__":
    main_entry("paced_engine", PacedEngineSettings, serve)
