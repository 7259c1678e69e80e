"""A small engine with the real wire contract, for the tests of `collect`.

Answers are as long as the last message says ("answer 7"), cut at max_tokens; "falling 7" gives each
further sample one token less. One step gives every running sequence one token, as the real
engine does.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc, sampling_pb2

CONTEXT_TOKENS = 200
FALLING = 1


class FakeEngine(engine_pb2_grpc.EngineServiceServicer):
    """Serves one stream; keeps what it was sent for the tests to read."""

    def __init__(
        self, max_sequences: int, leave_after: int | None = None, *, fails: bool = False
    ) -> None:
        self.max_sequences = max_sequences
        self.fails = fails
        self.leave_after = leave_after
        self.sequences: list[engine_pb2.Sequence] = []
        self.tokenized: list[engine_pb2.TokenizeRequest] = []
        self.most_running = 0
        self.hello: engine_pb2.Hello | None = None
        self._opened = asyncio.Event()
        self._running: dict[int, list[int]] = {}  # sequence -> tokens given, tokens in all
        self._batch_id = 0
        self._finished = 0

    async def Tokenize(  # noqa: N802
        self, request: engine_pb2.TokenizeRequest, context: Any
    ) -> engine_pb2.TokenizeResponse:
        self.tokenized.append(request)
        last = request.chat.messages[-1].content if request.HasField("chat") else request.prompt
        words = last.split()
        if words[0] == "refuse":
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, "refused")
        falls = [FALLING] if words[0] == "falling" else [0]
        ids = [int(words[1]), *falls, *[0] * (len(words) - 2)]
        return engine_pb2.TokenizeResponse(token_ids=ids)

    async def GetModelInfo(  # noqa: N802
        self,
        request: engine_pb2.GetModelInfoRequest,  # noqa: ARG002
        context: Any,  # noqa: ARG002
    ) -> engine_pb2.GetModelInfoResponse:
        return engine_pb2.GetModelInfoResponse(model=self._model())

    async def Serve(  # type: ignore[override]  # noqa: N802 (writes instead of yielding)
        self, request_iterator: Any, context: Any
    ) -> None:
        reading = asyncio.create_task(self._read(request_iterator))
        try:
            await self._opened.wait()
            await context.write(engine_pb2.ServeResponse(welcome=self._welcome()))
            await context.write(engine_pb2.ServeResponse(capacity=self._capacity()))
            while not reading.done():
                for response in self._step():
                    await context.write(response)
                if self.leave_after is not None and self._finished >= self.leave_after:
                    await context.abort(grpc.StatusCode.UNAVAILABLE, "going away")
                await asyncio.sleep(0.0005)
        finally:
            reading.cancel()
            await asyncio.gather(reading, return_exceptions=True)

    async def _read(self, request_iterator: Any) -> None:
        async for request in request_iterator:
            if request.HasField("hello"):
                self.hello = request.hello
                self._opened.set()
            elif request.HasField("batch"):
                self._batch_id = request.batch.batch_id
                for sequence in request.batch.sequences:
                    self.sequences.append(sequence)
                    wanted, falls = sequence.prompt_token_ids[:2]
                    if falls == FALLING:
                        wanted -= int(sequence.request_id.rpartition("/")[2])
                    self._running[sequence.sequence_id] = [0, wanted, sequence.sampling.max_tokens]
                self.most_running = max(self.most_running, len(self._running))

    def _step(self) -> list[engine_pb2.ServeResponse]:
        step = engine_pb2.StepOutput()
        for sequence_id, counts in list(self._running.items()):
            counts[0] += 1
            if self.fails:
                del self._running[sequence_id]
                step.errors.add(sequence_id=sequence_id)
                continue
            given, wanted, limit = counts
            # The end-of-sequence token comes after the answer's own tokens, and is counted.
            reason = None
            if given == wanted + 1:
                reason = sampling_pb2.FINISH_REASON_EOS
            elif given == limit:
                reason = sampling_pb2.FINISH_REASON_LENGTH
            if reason is not None:
                del self._running[sequence_id]
                self._finished += 1
                step.finished.add(sequence_id=sequence_id, reason=reason, output_tokens=given)
        responses = [engine_pb2.ServeResponse(step=step)]
        if step.finished or step.errors:
            responses.append(engine_pb2.ServeResponse(capacity=self._capacity()))
        return responses

    def _model(self) -> engine_pb2.ModelInfo:
        return engine_pb2.ModelInfo(name="fake-llm")

    def _welcome(self) -> engine_pb2.Welcome:
        limits = engine_pb2.EngineLimits(
            max_sequences=self.max_sequences,
            max_context_tokens=CONTEXT_TOKENS,
            kv_tokens=CONTEXT_TOKENS * self.max_sequences,
        )
        return engine_pb2.Welcome(engine_id="fake", model=self._model(), limits=limits)

    def _capacity(self) -> engine_pb2.Capacity:
        free = self.max_sequences - len(self._running)
        return engine_pb2.Capacity(
            free_sequences=free, free_kv_tokens=free * CONTEXT_TOKENS, batch_id=self._batch_id
        )


@asynccontextmanager
async def running(engine: FakeEngine) -> AsyncIterator[str]:
    """Serves `engine` in this process; yields its address."""
    server = grpc.aio.server()
    engine_pb2_grpc.add_EngineServiceServicer_to_server(engine, server)
    port = server.add_insecure_port("127.0.0.1:0")
    await server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await server.stop(None)
