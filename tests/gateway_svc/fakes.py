"""An engine and a predictor that do what a test says: real servers in this process.

A prompt's tokens are its words; a word that is a number is that token. The engine
answers with as many tokens as the prompt's last token says (the text of token 7 is
"7 "), a step at a time: by itself, or where `by_hand` is set when the test calls
`step`. The predictor foretells the last number of the prompt unless told otherwise.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc, sampling_pb2
from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire import errors, server
from ssjf.wire.schema import SCHEMA_REVISION
from ssjf.wire.settings import ServiceSettings

if TYPE_CHECKING:
    from ssjf.wire.interceptors import Context

VOCABULARY = 10_000
HEARTBEAT_S = 0.5


def tokens_of(text: str) -> list[int]:
    """One token a word; words that are no number are token 9999."""
    return [int(word) if word.isdecimal() else VOCABULARY - 1 for word in text.split()]


@dataclass(slots=True)
class Running:
    """A sequence at the fake engine."""

    sequence: engine_pb2.Sequence
    given: int = 0

    @property
    def wanted(self) -> int:
        """Tokens of its answer."""
        return min(self.sequence.prompt_token_ids[-1], self.sequence.sampling.max_tokens)

    @property
    def kv_tokens(self) -> int:
        """What it reserves."""
        return len(self.sequence.prompt_token_ids) + self.sequence.sampling.max_tokens


@dataclass(slots=True)
class Stream:
    """One gateway's `Serve` stream; None in the outbox breaks it off."""

    outbox: asyncio.Queue[engine_pb2.ServeResponse | None] = field(default_factory=asyncio.Queue)
    batch_id: int = 0


@dataclass
class FakeEngine(engine_pb2_grpc.EngineServiceServicer):
    """An engine without a model."""

    name: str = "fake"
    places: int = 4
    kv_tokens: int = 100_000
    context_tokens: int = 2_000
    model: str = "tiny"
    vocabulary_hash: str = "v1"
    revision: int = SCHEMA_REVISION
    by_hand: bool = False
    text: Callable[[int], str] = "{} ".format
    says_welcome: bool = True
    says_limits: bool = True
    silent: bool = False
    """Reads and never says a word."""
    absent: bool = False
    """Refuses every stream."""
    secretive: bool = False
    """Does not say what it has free."""
    cuts_off: bool = False
    """Ends every answer for its length."""
    modes: tuple[engine_pb2.BatchingMode.ValueType, ...] = (
        engine_pb2.BATCHING_MODE_NONE,
        engine_pb2.BATCHING_MODE_DYNAMIC,
        engine_pb2.BATCHING_MODE_CONTINUOUS,
    )
    """Batching modes that it can run."""

    running: dict[int, Running] = field(default_factory=dict)
    started: list[str] = field(default_factory=list)
    """Request ids in the order in which they came."""
    cancelled: list[int] = field(default_factory=list)
    hellos: list[engine_pb2.Hello] = field(default_factory=list)
    stream: Stream | None = None
    tokenizing: int = 0
    tokenizer_works: asyncio.Event = field(default_factory=asyncio.Event)
    tokenizer_error: errors.SsjfError | None = None

    def __post_init__(self) -> None:
        self.tokenizer_works.set()

    # What a test can do -----------------------------------------------------

    def step(self) -> None:
        """Gives every running sequence a token and ends those that are complete."""
        rows = [
            (number, running.given, running.given)
            for number, running in self.running.items()
            if running.given < running.wanted
        ]
        for running in self.running.values():
            running.given += 1
        self.say(step=self.output(rows))
        complete = [n for n, running in self.running.items() if running.given >= running.wanted]
        for number in complete:
            self.finish(number)
        if complete:
            self.report()

    def output(self, rows: Iterable[tuple[int, int, int]]) -> engine_pb2.StepOutput:
        """A step's tokens; a row is the sequence, the index and the token."""
        step = engine_pb2.StepOutput()
        for number, index, token in rows:
            step.sequence_ids.append(number)
            step.indices.append(index)
            step.token_ids.append(token)
            step.texts.append(self.text(token))
        return step

    def say_tokens(self, number: int, first_index: int, token_ids: Iterable[int]) -> None:
        """Sends output of one sequence, right or wrong."""
        rows = [(number, index, token) for index, token in enumerate(token_ids, first_index)]
        self.say(step=self.output(rows))

    def finish(self, number: int, output_tokens: int | None = None) -> None:
        """Ends a sequence."""
        running = self.running.pop(number)
        finished = engine_pb2.SequenceFinished(
            sequence_id=number,
            reason=self._reason,
            stop_token_id=2,
            prompt_tokens=len(running.sequence.prompt_token_ids),
            output_tokens=running.wanted if output_tokens is None else output_tokens,
            prefill_ms=3.0,
            decode_ms=4.0,
        )
        self.say(step=engine_pb2.StepOutput(finished=[finished]))

    @property
    def _reason(self) -> sampling_pb2.FinishReason.ValueType:
        if self.cuts_off:
            return sampling_pb2.FINISH_REASON_LENGTH
        return sampling_pb2.FINISH_REASON_EOS

    def fail(self, number: int, code: engine_pb2.SequenceErrorCode.ValueType) -> None:
        """Ends a sequence with an error."""
        del self.running[number]
        error = engine_pb2.SequenceError(sequence_id=number, code=code, message="/secret/path")
        self.say(step=engine_pb2.StepOutput(errors=[error]))
        self.report()

    def report(self) -> None:
        """Says what is free."""
        if self.stream is not None and not self.secretive:
            used = sum(running.kv_tokens for running in self.running.values())
            capacity = engine_pb2.Capacity(
                free_sequences=self.places - len(self.running),
                free_kv_tokens=self.kv_tokens - used,
                running_sequences=len(self.running),
                batch_id=self.stream.batch_id,
            )
            self.say(capacity=capacity)

    def say(self, **message: Any) -> None:
        """Sends one message, if there is a gateway."""
        if self.stream is not None:
            self.stream.outbox.put_nowait(engine_pb2.ServeResponse(**message))

    def die(self) -> None:
        """Breaks its stream off and refuses new ones, with whatever it had lost."""
        self.absent = True
        if self.stream is not None:
            self.stream.outbox.put_nowait(None)

    def come_back(self) -> None:
        """Takes a stream again."""
        self.absent = False

    @property
    def only(self) -> int:
        """The number of the one sequence that runs."""
        (number,) = self.running
        return number

    # The service ------------------------------------------------------------

    async def Tokenize(  # noqa: N802
        self, request: engine_pb2.TokenizeRequest, context: Context
    ) -> engine_pb2.TokenizeResponse:
        """One token a word."""
        del context
        self.tokenizing += 1
        try:
            await self.tokenizer_works.wait()
        finally:
            self.tokenizing -= 1
        if self.tokenizer_error is not None:
            raise self.tokenizer_error
        texts = [request.prompt, *(message.content for message in request.chat.messages)]
        return engine_pb2.TokenizeResponse(token_ids=tokens_of(" ".join(texts)))

    async def GetModelInfo(  # noqa: N802
        self, request: engine_pb2.GetModelInfoRequest, context: Context
    ) -> engine_pb2.GetModelInfoResponse:
        """The model of the welcome."""
        del request, context
        welcome = self._welcome(engine_pb2.Hello())
        return engine_pb2.GetModelInfoResponse(model=welcome.model, limits=welcome.limits)

    async def Serve(  # type: ignore[override]  # noqa: N802  # a coroutine that writes
        self, requests: AsyncIterator[engine_pb2.ServeRequest], context: Context
    ) -> None:
        """Runs what it is sent."""
        if self.absent or self.stream is not None:
            raise errors.AlreadyServing("no")
        self.stream = stream = Stream()
        tasks = [
            asyncio.create_task(each)
            for each in (self._read(requests, stream), self._beat(), self._run())
        ]
        try:
            while (message := await stream.outbox.get()) is not None:
                if not self.silent:
                    await context.write(message)
            raise errors.Internal("the fake engine was told to die")
        finally:
            self.running.clear()
            self.stream = None
            for task in tasks:
                task.cancel()
            # Last: a cancellation may come here, too.
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, requests: AsyncIterator[engine_pb2.ServeRequest], stream: Stream) -> None:
        async for request in requests:
            match request.WhichOneof("message"):
                case "hello":
                    self.hellos.append(request.hello)
                    if self.says_welcome:
                        self.say(welcome=self._welcome(request.hello))
                    self.report()
                case "batch":
                    stream.batch_id = request.batch.batch_id
                    for sequence in request.batch.sequences:
                        self.running[sequence.sequence_id] = Running(sequence)
                        self.started.append(sequence.request_id)
                    assert len(self.running) <= self.places, "more than there are places"
                    self.report()
                case "cancel":
                    for number in request.cancel.sequence_ids:
                        self.cancelled.append(number)
                        self.running.pop(number, None)
                    self.report()
        stream.outbox.put_nowait(None)

    async def _beat(self) -> None:
        count = 0
        while True:
            await asyncio.sleep(HEARTBEAT_S)
            count += 1
            self.say(heartbeat=engine_pb2.Heartbeat(count=count))

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(0.001)
            if self.running and not self.by_hand:
                self.step()

    def _welcome(self, hello: engine_pb2.Hello) -> engine_pb2.Welcome:
        limits = engine_pb2.EngineLimits(
            max_sequences=self.places,
            max_context_tokens=self.context_tokens,
            kv_tokens=self.kv_tokens,
        )
        return engine_pb2.Welcome(
            engine_id=self.name,
            schema_revision=self.revision,
            epoch=hello.epoch,
            model=engine_pb2.ModelInfo(
                name=self.model,
                vocabulary_size=VOCABULARY,
                vocabulary_hash=self.vocabulary_hash,
            ),
            limits=limits if self.says_limits else None,
            batching_modes=self.modes,
        )


def foretell(item: predictor_pb2.PredictItem) -> float:
    """The last number of the prompt."""
    return float(item.prompt.split()[-1])


def backwards(item: predictor_pb2.PredictItem) -> float:
    """The longer the answer, the less is foretold."""
    return 1000.0 - foretell(item)


@dataclass
class FakePredictor(predictor_pb2_grpc.PredictorServiceServicer):
    """A predictor that knows what to say."""

    predict: Callable[[predictor_pb2.PredictItem], float] = foretell
    answers: int = 1
    """Predictions for each item."""
    p90: Callable[[float], float] | None = None
    """The 90th percentile of an expected length; None tells no quantiles."""
    error: errors.SsjfError | None = None
    works: asyncio.Event = field(default_factory=asyncio.Event)
    """Cleared, questions wait for it."""
    asked: list[predictor_pb2.PredictItem] = field(default_factory=list)
    open: int = 0
    """Calls that have not ended."""

    def __post_init__(self) -> None:
        self.works.set()

    async def Predict(  # noqa: N802
        self, request: predictor_pb2.PredictRequest, context: Context
    ) -> predictor_pb2.PredictResponse:
        """Answers as it was told to."""
        del context
        self.asked.extend(request.items)
        self.open += 1
        try:
            await self.works.wait()
        finally:
            self.open -= 1
        if self.error is not None:
            raise self.error
        predictions = [
            self._prediction(self.predict(item))
            for item in request.items
            for _ in range(self.answers)
        ]
        return predictor_pb2.PredictResponse(predictions=predictions, revision="r1")

    def _prediction(self, tokens: float) -> predictor_pb2.Prediction:
        if self.p90 is None:
            return predictor_pb2.Prediction(expected_tokens=tokens)
        quantiles = [
            predictor_pb2.Quantile(probability=0.5, tokens=tokens),
            predictor_pb2.Quantile(probability=0.9, tokens=self.p90(tokens)),
        ]
        return predictor_pb2.Prediction(expected_tokens=tokens, quantiles=quantiles)

    async def GetPredictorInfo(  # noqa: N802
        self, request: predictor_pb2.GetPredictorInfoRequest, context: Context
    ) -> predictor_pb2.GetPredictorInfoResponse:
        """A name for what it is."""
        del request, context
        return predictor_pb2.GetPredictorInfoResponse(revision="r1", task="foretelling")


@asynccontextmanager
async def serving(fake: FakeEngine | FakePredictor) -> AsyncIterator[str]:
    """Serves `fake` on a free port of this machine; yields its address."""
    service = "EngineService" if isinstance(fake, FakeEngine) else "PredictorService"
    package = "engine" if isinstance(fake, FakeEngine) else "predictor"
    add: Any = (
        engine_pb2_grpc.add_EngineServiceServicer_to_server
        if isinstance(fake, FakeEngine)
        else predictor_pb2_grpc.add_PredictorServiceServicer_to_server
    )
    listening = await server.listen(
        ServiceSettings(host="127.0.0.1", port=0),
        {f"ssjf.{package}.v1.{service}": partial(add, fake)},
    )
    try:
        yield listening.address
    finally:
        await listening.server.stop(grace=0)
