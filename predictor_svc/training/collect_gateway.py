"""Samples answers' lengths through a running gateway, as its clients would.

Owns how many requests are in flight, when a refused one is sent again, and when to give
up. Knows the gateway's public contract only, so it serves whatever engines stand behind
it, beside other traffic. A driver of `collect`.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from functools import partial
from typing import Final, TypeVar

import grpc

from predictor_svc.training.collect import Asked, CollectError, Progress, Tally
from predictor_svc.training.example import Prompt
from predictor_svc.training.sampling import generate_request
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire.channel import connect
from ssjf.wire.errors import ErrorDetails, decode

CONCURRENCY: Final = 32
PATIENCE_S: Final = 60.0
"""How long a gateway may be unreachable, with no answer to any request, before giving up."""
BUSY_PATIENCE_S: Final = 1800.0
"""The same for a gateway that is there and refuses: other traffic may fill its queue."""
FIRST_BACKOFF_S: Final = 0.25
LONGEST_BACKOFF_S: Final = 8.0
INFO_S: Final = 10.0

_UNREACHABLE: Final = frozenset({grpc.StatusCode.UNAVAILABLE})
_BUSY: Final = frozenset({grpc.StatusCode.RESOURCE_EXHAUSTED, grpc.StatusCode.DEADLINE_EXCEEDED})
# The prompt's own fault, or one that other prompts need not meet.
_REFUSED: Final = frozenset({grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.INTERNAL})

T = TypeVar("T")


class GatewayCollector:
    """One run through one gateway."""

    def __init__(
        self,
        tally: Tally,
        concurrency: int = CONCURRENCY,
        patience_s: float = PATIENCE_S,
        busy_patience_s: float = BUSY_PATIENCE_S,
    ) -> None:
        """`concurrency` is the most requests in the gateway at once, its queue included."""
        self._tally = tally
        self._concurrency = concurrency
        self._patience_s = patience_s
        self._busy_patience_s = busy_patience_s
        self._answered_s = 0.0
        """When the gateway last did what it was asked, on the event loop's clock."""

    async def run(self, address: str, prompts: Sequence[Prompt]) -> Progress:
        """See `Driver`."""
        if not prompts:
            return self._tally.progress
        async with connect(address) as channel:
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            try:
                samples = self._samples(prompts)
                async with asyncio.TaskGroup() as workers:
                    for _ in range(self._concurrency):
                        workers.create_task(self._work(stub, samples))
            except ExceptionGroup as group:
                raise _failure(address, group) from group
        return self._tally.progress

    def _samples(self, prompts: Sequence[Prompt]) -> Iterator[tuple[Asked, int]]:
        """Every sample to ask for; a prompt that was refused is not asked again."""
        count = self._tally.sampling.samples
        for prompt in prompts:
            asked = Asked(prompt, count)
            while asked.unsent:
                yield asked, asked.start(count)

    async def _work(
        self,
        stub: gateway_pb2_grpc.GatewayServiceAsyncStub,
        samples: Iterator[tuple[Asked, int]],
    ) -> None:
        for asked, index in samples:  # shared: each sample goes to one worker
            params = self._tally.sampling.params(asked.prompt, index)
            request = generate_request(asked.prompt.text, params)
            try:
                finished = await self._patiently(partial(_finish, stub, request))
            except grpc.aio.AioRpcError as error:
                if error.code() not in _REFUSED:
                    raise
                self._tally.failed(asked)
                continue
            if not self._tally.model:  # known now: an engine has answered
                self._tally.model = await self._patiently(partial(_model, stub))
            self._tally.answered(asked, index, finished.usage.output_tokens, finished.reason)

    async def _patiently(self, ask: Callable[[], Awaitable[T]]) -> T:
        """What `ask` gives, asked again while the gateway is busy or away for a while."""
        clock = asyncio.get_running_loop().time
        backoff_s = FIRST_BACKOFF_S
        patience_s, since_s = -1.0, 0.0
        while True:
            try:
                answer = await ask()
            except grpc.aio.AioRpcError as error:
                now_s = clock()
                if self._patience(error.code()) != patience_s:  # trouble of another kind
                    patience_s, since_s = self._patience(error.code()), now_s
                if now_s - max(since_s, self._answered_s) > patience_s:
                    raise
                details = decode(error)
            else:
                self._answered_s = clock()
                return answer
            await asyncio.sleep(_pause_s(details, backoff_s))
            backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)

    def _patience(self, code: grpc.StatusCode) -> float:
        """Seconds of this failure, with no answer to anyone, after which it is final."""
        if code in _UNREACHABLE:
            return self._patience_s
        return self._busy_patience_s if code in _BUSY else -1.0


def _pause_s(details: ErrorDetails, backoff_s: float) -> float:
    """The gateway's own word, else the backoff; spread, so that the workers do not come at once."""
    pause_s = backoff_s if details.retry_after_s is None else details.retry_after_s
    return pause_s * random.uniform(1.0, 1.5)  # noqa: S311


async def _model(stub: gateway_pb2_grpc.GatewayServiceAsyncStub) -> str:
    info = await stub.GetServerInfo(gateway_pb2.GetServerInfoRequest(), timeout=INFO_S)
    return info.model


async def _finish(
    stub: gateway_pb2_grpc.GatewayServiceAsyncStub, request: gateway_pb2.GenerateRequest
) -> gateway_pb2.Finished:
    """How the answer to a request ends; its text is dropped unread."""
    call = stub.Generate(request)
    try:
        async for response in call:
            if response.HasField("finished"):
                return response.finished
    finally:
        call.cancel()
    raise CollectError("the gateway ended a stream without saying how the answer ended")


def _failure(address: str, group: ExceptionGroup[Exception]) -> Exception:
    """The one reason to show for a failed run; anything unforeseen stays as it is."""
    error: Exception = group
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    if not isinstance(error, grpc.aio.AioRpcError):
        return error
    return CollectError(f"gateway at {address}: {error.code().name}: {error.details()}")
