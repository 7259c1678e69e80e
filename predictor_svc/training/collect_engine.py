"""Samples answers' lengths from a running engine, for training.

Owns the pace: prompts are tokenised ahead, the engine's free places are kept full.
Speaks `EngineService` directly, so it needs no gateway. Step messages, nearly all of the
traffic, are dropped unread: `finished` says all that is wanted. A driver of `collect`.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterable, AsyncIterator, Sequence
from dataclasses import dataclass

import grpc

from predictor_svc.training.collect import Asked, CollectError, Progress, Tally
from predictor_svc.training.example import Prompt
from predictor_svc.training.sampling import tokenize_request
from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc
from ssjf.wire.channel import connect
from ssjf.wire.schema import SCHEMA_REVISION

PROMPTS_AHEAD = 256
"""Prompts tokenised before the engine has a place for them."""
TOKENIZE_CALLS = 8
TOKENIZE_S = 60.0
HEARTBEAT_S = 1.0
BATCH_SEQUENCES = 64
"""Most sequences in one message: with 64 full contexts it stays under a megabyte."""
SENT_TOO_LATE = "Internal error from Core"
"""What grpc.aio says, in place of the engine's reason, of a message sent as the stream ended."""


@dataclass(slots=True)
class _Tokenized(Asked):
    """A prompt whose ids are known."""

    token_ids: Sequence[int] = ()


class EngineCollector:
    """One run over one engine's stream."""

    def __init__(self, tally: Tally, concurrency: int | None = None) -> None:
        """`concurrency` bounds the answers in flight below what the engine has room for."""
        self._tally = tally
        self._sampling = tally.sampling
        self._concurrency = concurrency
        self._outgoing: asyncio.Queue[engine_pb2.ServeRequest | None] = asyncio.Queue()
        self._waiting: deque[_Tokenized] = deque()
        self._ahead = asyncio.Semaphore(PROMPTS_AHEAD)
        self._running: dict[int, tuple[_Tokenized, int]] = {}
        self._sent: dict[int, tuple[int, int]] = {}  # batch -> sequences, KV tokens
        self._capacity = engine_pb2.Capacity()
        self._welcome = engine_pb2.Welcome()
        self._last_sequence = 0
        self._last_batch = 0
        self._prompt_count = 0
        self._all_settled = asyncio.Event()

    async def run(self, address: str, prompts: Sequence[Prompt]) -> Progress:
        """See `Driver`."""
        self._prompt_count = len(prompts)
        if not prompts:
            return self._tally.progress
        async with connect(address) as channel:
            stub = engine_pb2_grpc.EngineServiceStub(channel)
            call = stub.Serve(self._requests())
            try:
                async with asyncio.TaskGroup() as tasks:
                    running = [
                        tasks.create_task(self._beat()),
                        tasks.create_task(self._tokenize_all(stub, prompts)),
                        tasks.create_task(self._listen(call)),
                    ]
                    await self._all_settled.wait()
                    for task in running:
                        task.cancel()
            except ExceptionGroup as group:
                raise _failure(address, group) from group
            finally:
                call.cancel()
        return self._tally.progress

    async def _requests(self) -> AsyncIterator[engine_pb2.ServeRequest]:
        yield engine_pb2.ServeRequest(
            hello=engine_pb2.Hello(
                gateway_id="ssjf predictor collect",
                schema_revision=SCHEMA_REVISION,
                epoch=1,
                batching_mode=engine_pb2.BATCHING_MODE_CONTINUOUS,
            )
        )
        while (request := await self._outgoing.get()) is not None:
            yield request

    async def _beat(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            count += 1
            self._outgoing.put_nowait(
                engine_pb2.ServeRequest(heartbeat=engine_pb2.Heartbeat(count=count))
            )

    async def _listen(self, call: AsyncIterable[engine_pb2.ServeResponse]) -> None:
        """Reads the engine's messages."""
        async for response in call:
            match response.WhichOneof("message"):
                case "step":
                    self._take(response.step)
                case "capacity":
                    self._has_free(response.capacity)
                case "welcome":
                    self._welcome = response.welcome
                    self._tally.model = response.welcome.model.name
        raise CollectError("the engine ended the stream")

    async def _tokenize_all(
        self, stub: engine_pb2_grpc.EngineServiceAsyncStub, prompts: Sequence[Prompt]
    ) -> None:
        remaining = iter(prompts)

        async def work() -> None:
            for prompt in remaining:  # shared: each prompt goes to one worker
                await self._ahead.acquire()
                self._waiting.append(await self._tokenize(stub, prompt))
                self._fill()

        async with asyncio.TaskGroup() as workers:
            for _ in range(TOKENIZE_CALLS):
                workers.create_task(work())

    async def _tokenize(
        self, stub: engine_pb2_grpc.EngineServiceAsyncStub, prompt: Prompt
    ) -> _Tokenized:
        """The prompt with its ids; failed where the engine refuses the prompt itself."""
        try:
            response = await stub.Tokenize(tokenize_request(prompt.text), timeout=TOKENIZE_S)
        except grpc.aio.AioRpcError as error:
            if error.code() is not grpc.StatusCode.INVALID_ARGUMENT:
                raise
            return _Tokenized(prompt, unsent=0, failed=True)
        return _Tokenized(prompt, self._sampling.samples, token_ids=response.token_ids)

    def _has_free(self, capacity: engine_pb2.Capacity) -> None:
        self._capacity = capacity
        for batch in [batch for batch in self._sent if batch <= capacity.batch_id]:
            del self._sent[batch]
        self._fill()

    def _fill(self) -> None:
        """Sends what the engine has free, in batches."""
        while batch := self._next_batch():
            self._last_batch += 1
            kv_tokens = sum(self._needed(len(sequence.prompt_token_ids)) for sequence in batch)
            self._sent[self._last_batch] = (len(batch), kv_tokens)
            message = engine_pb2.ScheduledBatch(batch_id=self._last_batch, sequences=batch)
            self._outgoing.put_nowait(engine_pb2.ServeRequest(batch=message))

    def _next_batch(self) -> list[engine_pb2.Sequence]:
        """The next samples that fit, in the order of the prompts."""
        free, free_kv_tokens = self._free()
        batch: list[engine_pb2.Sequence] = []
        while self._waiting and len(batch) < min(free, BATCH_SEQUENCES):
            asked = self._waiting[0]
            needed = self._needed(len(asked.token_ids))
            if needed > min(
                self._welcome.limits.max_context_tokens, self._welcome.limits.kv_tokens
            ):
                asked.give_up()
            if asked.unsent == 0:
                self._drop_first()
                continue
            if needed > free_kv_tokens:
                break
            free_kv_tokens -= needed
            batch.append(self._start(asked))
            if asked.unsent == 0:
                self._drop_first()
        return batch

    def _drop_first(self) -> None:
        """Takes the first prompt, all its samples sent or given up, from the waiting ones."""
        asked = self._waiting.popleft()
        self._ahead.release()
        self._tally.settle(asked)
        self._end_if_settled()

    def _needed(self, prompt_tokens: int) -> int:
        """KV tokens that a sample reserves."""
        return prompt_tokens + self._sampling.max_tokens

    def _free(self) -> tuple[int, int]:
        """Places and KV tokens free once what is under way has arrived."""
        sequences = self._capacity.free_sequences - sum(count for count, _ in self._sent.values())
        kv_tokens = self._capacity.free_kv_tokens - sum(kv for _, kv in self._sent.values())
        if self._concurrency is not None:
            sequences = min(sequences, self._concurrency - len(self._running))
        return sequences, kv_tokens

    def _start(self, asked: _Tokenized) -> engine_pb2.Sequence:
        self._last_sequence += 1
        index = asked.start(self._sampling.samples)
        self._running[self._last_sequence] = (asked, index)
        return engine_pb2.Sequence(
            sequence_id=self._last_sequence,
            request_id=f"{asked.prompt.prompt_id}/{index}"[:128],
            prompt_token_ids=asked.token_ids,
            sampling=self._sampling.params(asked.prompt, index),
        )

    def _take(self, step: engine_pb2.StepOutput) -> None:
        for finished in step.finished:
            self._finished(finished)
        for error in step.errors:
            self._failed(error)

    def _finished(self, finished: engine_pb2.SequenceFinished) -> None:
        if entry := self._running.pop(finished.sequence_id, None):
            self._tally.answered(*entry, finished.output_tokens, finished.reason)
            self._end_if_settled()

    def _failed(self, error: engine_pb2.SequenceError) -> None:
        if entry := self._running.pop(error.sequence_id, None):
            self._tally.failed(entry[0])
            self._end_if_settled()

    def _end_if_settled(self) -> None:
        if self._tally.settled == self._prompt_count:
            self._all_settled.set()


def _failure(address: str, group: ExceptionGroup[Exception]) -> Exception:
    """The one reason to show for a failed run; anything unforeseen stays as it is."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if isinstance(error, grpc.aio.AioRpcError):
        if error.details() == SENT_TOO_LATE:
            return CollectError(f"engine at {address}: ended the stream")
        return CollectError(f"engine at {address}: {error.code().name}: {error.details()}")
    return error
