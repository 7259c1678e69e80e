"""The engines behind the queue: their links, and the one model that they serve.

The first engine's model is the gateway's for its life; an engine with another
model or vocabulary is refused, since queued prompts are already tokenised.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

import grpc

from gateway_svc.dispatcher import Dispatcher
from gateway_svc.engine_link import Batching, EngineLink
from gateway_svc.validation import ServedModel
from ssjf.engine.v1 import engine_pb2
from ssjf.wire import errors


class Fleet:
    """Links to every configured engine; `run` keeps them up."""

    def __init__(
        self, addresses: Sequence[str], dispatcher: Dispatcher, batching: Batching
    ) -> None:
        self.links = [
            EngineLink(address, dispatcher, self._accept, batching) for address in addresses
        ]
        self._model: engine_pb2.ModelInfo | None = None

    @property
    def connected(self) -> list[EngineLink]:
        """The links that are up."""
        return [link for link in self.links if link.welcome is not None]

    @property
    def model_name(self) -> str:
        """Name of the model served; empty before the first engine."""
        return self._model.name if self._model else ""

    @property
    def max_context_tokens(self) -> int:
        """Prompt plus answer that every connected engine can hold; 0 without one."""
        limits = [link.welcome.limits for link in self.connected if link.welcome is not None]
        return min((limit.max_context_tokens for limit in limits), default=0)

    def served(self, name: str) -> ServedModel:
        """The model for a request that asks for `name`. Raises NoEngine, UnknownModel."""
        limits = [link.welcome.limits for link in self.connected if link.welcome is not None]
        if self._model is None or not limits:
            raise errors.NoEngine("no engine is connected", retry_after_s=1.0)
        if name not in ("", self._model.name):
            raise errors.UnknownModel(f"the model served is {self._model.name}")
        return ServedModel(
            name=self._model.name,
            vocabulary_size=self._model.vocabulary_size,
            max_context_tokens=min(limit.max_context_tokens for limit in limits),
            kv_tokens=min(limit.kv_tokens for limit in limits),
        )

    async def tokenize(
        self, request: engine_pb2.TokenizeRequest, timeout_s: float
    ) -> tuple[int, ...]:
        """The prompt's token ids, from any engine. Raises InvalidRequest, NoEngine, Internal."""
        for link in self.connected:
            try:
                return await link.tokenize(request, timeout_s)
            except grpc.aio.AioRpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT:
                    violations = errors.decode(error).violations
                    raise errors.InvalidRequest(violations) from error
                if error.code() is grpc.StatusCode.INTERNAL:
                    raise errors.Internal("the prompt could not be tokenised") from error
        raise errors.NoEngine("no engine answers", retry_after_s=1.0)

    async def run(self) -> None:
        """Keeps every link up until cancelled."""
        async with asyncio.TaskGroup() as links:
            for link in self.links:
                links.create_task(link.run())

    def _accept(self, welcome: engine_pb2.Welcome) -> None:
        """Takes the first engine's model as the gateway's; refuses another's."""
        limits = welcome.limits
        if not (welcome.model.vocabulary_size and limits.max_context_tokens and limits.kv_tokens):
            raise errors.IncompatiblePeer(f"engine {welcome.engine_id} tells no model or limits")
        if self._model is None:
            self._model = welcome.model
        for field in ("name", "vocabulary_hash"):
            ours, theirs = getattr(self._model, field), getattr(welcome.model, field)
            if ours != theirs:
                what = f"engine {welcome.engine_id} has {field} {theirs!r}"
                raise errors.IncompatiblePeer(f"{what}, the gateway serves {ours!r}")
