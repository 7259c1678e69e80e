"""One accepted request between its engine and its client.

The engine link pushes what the engine says; the request's handler takes it as
events for the client. What piles up while the client is slow is coalesced into one
delta, bounded by the request's max_tokens. Knows no queue and no network.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field

from gateway_svc.scheduling.job import Job
from ssjf.engine.v1 import engine_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire.errors import SsjfError


class GappedOutput(Exception):
    """The engine left out tokens of this sequence."""


@dataclass(slots=True)
class Moments:
    """When things happened, in seconds of the gateway's monotonic clock."""

    received_s: float
    queued_s: float = 0.0
    """Start of its latest stay in the queue."""
    started_s: float = 0.0
    first_token_s: float = 0.0
    waited_s: float = 0.0
    """In the queue, all ended stays together."""


@dataclass(slots=True)
class LiveRequest:
    """State of one accepted request; `job` is replaced when it is repriced."""

    job: Job
    sequence: engine_pb2.Sequence
    moments: Moments
    from_model: bool
    output_tokens: int = 0
    engine_name: str = ""
    finished: engine_pb2.SequenceFinished | None = None
    error: SsjfError | None = None
    _started: gateway_pb2.Started | None = None
    _delta: gateway_pb2.Delta | None = None
    _changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def ended(self) -> bool:
        """Whether nothing more will come."""
        return self.finished is not None or self.error is not None

    def start(self, engine_name: str, now_s: float) -> None:
        """An engine has the request; told to the client the first time only."""
        self.engine_name = engine_name
        self.moments.waited_s += now_s - self.moments.queued_s
        if not self.moments.started_s:
            waited_ms = self.moments.waited_s * 1e3
            self._started = gateway_pb2.Started(engine_id=engine_name, queue_wait_ms=waited_ms)
        self.moments.started_s = now_s
        self._changed.set()

    def requeue(self, now_s: float) -> None:
        """Its engine is gone and it waits again; the client is not told."""
        self.engine_name = ""
        self.moments.queued_s = now_s

    def push(
        self,
        index: int,
        token_id: int,
        text: str,
        now_s: float,
        logprobs: sampling_pb2.TokenLogprobs | None = None,
    ) -> bool:
        """Takes a token of the answer; False where it came before. Raises GappedOutput."""
        if index > self.output_tokens:
            raise GappedOutput(f"token {index} follows {self.output_tokens}")
        if index < self.output_tokens:
            return False
        if self._delta is None:
            self._delta = gateway_pb2.Delta(first_index=index)
        self._delta.text += text
        self._delta.token_ids.append(token_id)
        if logprobs is not None:
            self._delta.logprobs.append(logprobs)
        if not index:
            self.moments.first_token_s = now_s
        self.output_tokens += 1
        self._changed.set()
        return True

    def finish(self, finished: engine_pb2.SequenceFinished) -> None:
        """The engine is done with it."""
        if not self.ended:
            self.finished = finished
        self._changed.set()

    def fail(self, error: SsjfError) -> None:
        """It ends here; the first end wins."""
        if not self.ended:
            self.error = error
        self._changed.set()

    async def changed(self) -> None:
        """Waits until there is something to `take` or the request has ended."""
        await self._changed.wait()
        self._changed.clear()

    def take(self) -> Sequence[gateway_pb2.GenerateResponse]:
        """What the client has not been sent yet, in order."""
        events = []
        if self._started is not None:
            events.append(gateway_pb2.GenerateResponse(started=self._started))
        if self._delta is not None:
            events.append(gateway_pb2.GenerateResponse(delta=self._delta))
        self._started = self._delta = None
        return events
