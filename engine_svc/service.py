"""`ssjf.engine.v1.EngineService`: what the engine says on the wire.

It knows the engine loop only by the commands that it takes. `stream` runs an open Serve stream;
here is who is let in, and the calls that need no engine loop.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Final

from engine_svc import translate
from engine_svc.mailbox import Commands
from engine_svc.messages import Drain
from engine_svc.stream import Requests, Stream
from engine_svc.token_texts import TokenTexts
from engine_svc.tokenizer import Tokenizer, UnusablePrompt
from engine_svc.translate import Bounds
from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc
from ssjf.wire import logs
from ssjf.wire.errors import (
    AlreadyServing,
    Draining,
    IncompatiblePeer,
    InvalidRequest,
    Violation,
)
from ssjf.wire.schema import SCHEMA_REVISION

HELLO_LIMIT_S: Final = 3.0
"""How long a new stream may keep its hello back."""

if TYPE_CHECKING:
    from ssjf.wire.interceptors import Context


class EngineService(engine_pb2_grpc.EngineServiceServicer):
    """Serves one gateway at a time."""

    def __init__(
        self,
        *,
        commands: Commands,
        tokenizer: Tokenizer,
        texts: TokenTexts,
        bounds: Bounds,
        welcome: engine_pb2.Welcome,
    ) -> None:
        """`welcome` is complete but for the epoch."""
        self._commands = commands
        self._tokenizer = tokenizer
        self._texts = texts
        self._bounds = bounds
        self._welcome = welcome
        self._serving = False
        self._draining = False
        self._idle = asyncio.Event()
        self._idle.set()

    async def Serve(  # type: ignore[override]  # noqa: N802  # a coroutine that writes
        self, request_iterator: Requests, context: Context
    ) -> None:
        """One stream with a gateway, from its hello to its end."""
        if self._draining:
            raise Draining("the engine is shutting down", retry_after_s=1.0)
        hello = await self._hello(request_iterator)  # a silent peer takes nobody's place
        if self._serving:
            raise AlreadyServing("the engine serves another gateway")
        self._serving = True
        self._idle.clear()
        try:
            await self._serve(hello, request_iterator, context)
        finally:
            self._serving = False
            self._idle.set()

    async def _serve(self, hello: engine_pb2.Hello, requests: Requests, context: Context) -> None:
        log = logs.get_logger().bind(gateway_id=hello.gateway_id, epoch=hello.epoch)
        log.info("gateway connected")
        welcome = engine_pb2.Welcome()
        welcome.CopyFrom(self._welcome)
        welcome.epoch = hello.epoch
        try:
            stream = Stream(
                requests,
                context,
                commands=self._commands,
                bounds=self._bounds,
                texts=self._texts,
            )
            await stream.run(welcome, translate.MODES[hello.batching_mode])
        finally:
            log.info("gateway disconnected")

    async def _hello(self, requests: Requests) -> engine_pb2.Hello:
        try:
            async with asyncio.timeout(HELLO_LIMIT_S):
                first = await anext(requests, engine_pb2.ServeRequest())
        except TimeoutError:
            raise InvalidRequest([Violation("message", "no hello came")]) from None
        if first.WhichOneof("message") != "hello":
            raise InvalidRequest([Violation("message", "hello comes first")])
        hello = first.hello
        if hello.schema_revision != SCHEMA_REVISION:
            raise IncompatiblePeer(
                f"schema revision {hello.schema_revision}, this engine speaks {SCHEMA_REVISION}"
            )
        if hello.batching_mode not in self._welcome.batching_modes:
            mode = engine_pb2.BatchingMode.Name(hello.batching_mode)
            raise IncompatiblePeer(f"this engine cannot run {mode}")
        return hello

    async def Tokenize(  # noqa: N802
        self, request: engine_pb2.TokenizeRequest, context: Context
    ) -> engine_pb2.TokenizeResponse:
        """Token ids of a prompt or a conversation."""
        del context
        messages = translate.messages(request)
        kind = request.WhichOneof("input") or ""
        try:
            if kind == "prompt":
                ids = await asyncio.to_thread(self._tokenizer.encode_prompt, request.prompt)
            else:
                ids = await asyncio.to_thread(self._tokenizer.encode_chat, messages)
        except UnusablePrompt as error:
            raise InvalidRequest([Violation(kind, str(error))]) from error
        return engine_pb2.TokenizeResponse(token_ids=ids)

    async def GetModelInfo(  # noqa: N802
        self, request: engine_pb2.GetModelInfoRequest, context: Context
    ) -> engine_pb2.GetModelInfoResponse:
        """The model and the limits."""
        del request, context
        return engine_pb2.GetModelInfoResponse(
            model=self._welcome.model, limits=self._welcome.limits
        )

    async def drain(self) -> None:
        """Takes no new stream, offers no more capacity, and waits until the open one has ended."""
        self._draining = True
        self._commands.post(Drain(for_good=True))
        await self._idle.wait()
