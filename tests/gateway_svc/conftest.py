"""The real gateway in this process, between fake engines, a fake predictor and a client."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from gateway_svc.__main__ import SERVICE, Gateway, running_gateway
from gateway_svc.admission import Admission
from gateway_svc.config import GatewaySettings
from gateway_svc.dispatcher import Dispatcher
from ssjf.engine.v1 import sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf.wire import auth, channel, errors
from tests.gateway_svc.fakes import FakeEngine, FakePredictor, serving

# Far beyond what anything takes here; a test that waits so long has failed.
PATIENCE_S = 20.0


async def until(condition: Callable[[], object]) -> None:
    """Returns once `condition()` holds."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (of parts that know no tests)
            await asyncio.sleep(0.002)


@dataclass
class Answer:
    """One call of Generate, read in the background as fast as events come."""

    call: Any
    events: list[gateway_pb2.GenerateResponse] = field(default_factory=list)
    error: errors.ErrorDetails | None = None
    task: asyncio.Task[None] | None = None

    async def read(self) -> None:
        """Reads to the end, good or bad."""
        try:
            async for event in self.call:
                self.events.append(event)
        except grpc.aio.AioRpcError as error:
            self.error = errors.decode(error)
        except asyncio.CancelledError:
            if not self.call.cancelled():
                raise
            self.error = errors.ErrorDetails(grpc.StatusCode.CANCELLED, "")

    async def end(self) -> Answer:
        """Waits for the end of the stream."""
        assert self.task is not None
        done, _ = await asyncio.wait({self.task}, timeout=PATIENCE_S)
        assert done, f"no end after {self.kinds}"
        return self

    async def has(self, kind: str) -> Any:
        """Waits for the first event of a kind and returns it."""
        await until(lambda: kind in self.kinds or (self.task is not None and self.task.done()))
        return getattr(self.events[self.kinds.index(kind)], kind)

    async def failure(self) -> errors.ErrorDetails:
        """Waits for the end, which must not be a good one."""
        await self.end()
        assert self.error is not None, self.kinds
        return self.error

    @property
    def kinds(self) -> list[str]:
        """The events by their names."""
        return [str(event.WhichOneof("event")) for event in self.events]

    @property
    def deltas(self) -> list[gateway_pb2.Delta]:
        return [event.delta for event in self.events if event.HasField("delta")]

    @property
    def token_ids(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def text(self) -> str:
        return "".join(delta.text for delta in self.deltas)

    @property
    def finished(self) -> gateway_pb2.Finished:
        """The last event of a complete answer."""
        assert self.error is None, self.error
        assert self.kinds[-1] == "finished"
        return self.events[-1].finished


@dataclass
class Rig:
    """A running gateway and a client of it."""

    gateway: Gateway
    channel: grpc.aio.Channel

    @property
    def dispatcher(self) -> Dispatcher:
        return self.gateway.dispatcher

    @property
    def admission(self) -> Admission:
        return self.gateway.parts.admission

    @property
    def stub(self) -> Any:
        return gateway_pb2_grpc.GatewayServiceStub(self.channel)

    def open(
        self,
        prompt: str = "",
        *,
        timeout: float | None = None,
        token: str | None = None,
        **fields: Any,
    ) -> Any:
        """A call of Generate; sampling fields go into `sampling`."""
        sampling = sampling_pb2.SamplingParams(
            **{name: fields.pop(name) for name in list(fields) if name in SAMPLING_FIELDS}
        )
        if prompt:
            fields["prompt"] = prompt
        request = gateway_pb2.GenerateRequest(sampling=sampling, **fields)
        return self.stub.Generate(request, timeout=timeout, metadata=auth.bearer(token))

    def generate(self, prompt: str = "", **fields: Any) -> Answer:
        """A call of Generate that is being read."""
        answer = Answer(self.open(prompt, **fields))
        answer.task = asyncio.create_task(answer.read())
        return answer

    async def queued(self, prompt: str, **fields: Any) -> Answer:
        """A call of Generate that has its place in the queue, or an engine already."""
        answer = self.generate(prompt, **fields)
        await answer.has("queued")
        return answer

    async def info(self) -> gateway_pb2.GetServerInfoResponse:
        response = await self.stub.GetServerInfo(gateway_pb2.GetServerInfoRequest())
        assert isinstance(response, gateway_pb2.GetServerInfoResponse)
        return response

    async def queue(
        self, *, token: str | None = None, **fields: Any
    ) -> gateway_pb2.GetQueueResponse:
        request = gateway_pb2.GetQueueRequest(**fields)
        response = await self.stub.GetQueue(request, metadata=auth.bearer(token))
        assert isinstance(response, gateway_pb2.GetQueueResponse)
        return response

    def counts(self) -> dict[str, int]:
        """The counters that are not zero, refused ones and late predictions included."""
        ledger = self.dispatcher.ledger
        names = (
            *("accepted", "refused", "finished", "cancelled", "failed"),
            *("predictions_late", "predictions_failed", "predictions_skipped", "repriced"),
        )
        return {name: getattr(ledger, name) for name in names if getattr(ledger, name)}

    async def engines(self, count: int) -> None:
        """Waits until so many engines are connected and have said what they have free."""
        links = self.gateway.fleet
        await until(
            lambda: (
                len(links.connected) == count
                and all(link.last_capacity.ByteSize() for link in links.connected)
            )
        )

    async def health(self, expected: int) -> None:
        """Waits until the gateway's health is as expected."""
        stub: Any = health_pb2_grpc.HealthStub(self.channel)
        watch = stub.Watch(health_pb2.HealthCheckRequest(service=SERVICE))
        async with asyncio.timeout(PATIENCE_S):
            while (await watch.read()).status != expected:
                pass
        watch.cancel()

    async def idle(self) -> None:
        """Waits until nothing is left of any request, and checks that it adds up."""
        dispatcher = self.dispatcher
        dispatcher.check()
        await until(lambda: dispatcher.ledger.open == 0 and self.gateway.parts.admission.idle)
        dispatcher.check()
        ledger = dispatcher.ledger
        assert ledger.accepted == ledger.finished + ledger.cancelled + ledger.failed
        assert (dispatcher.core.waiting_count, dispatcher.core.running_count) == (0, 0)


SAMPLING_FIELDS = frozenset(sampling_pb2.SamplingParams.DESCRIPTOR.fields_by_name)

Start = Callable[..., Awaitable[Rig]]


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Starts a gateway between fakes; every request must have left it when the test ends."""
    rigs: list[Rig] = []
    async with AsyncExitStack() as stack:

        async def _start(
            *engines: FakeEngine,
            predictor: FakePredictor | str | None = None,
            joined: int | None = None,
            **settings: Any,
        ) -> Rig:
            addresses = [await stack.enter_async_context(serving(engine)) for engine in engines]
            if isinstance(predictor, FakePredictor):
                predictor = await stack.enter_async_context(serving(predictor))
            given = {
                "port": 0,
                "prediction_budget_ms": PATIENCE_S * 1e3,
                "skip_idle_predictions": False,
                "policy": "ssjf",
                **settings,
            }
            gateway = await stack.enter_async_context(
                running_gateway(
                    GatewaySettings(
                        engines=",".join(addresses), predictor=predictor or "none", **given
                    )
                )
            )
            address = gateway.listening.address
            connection = await stack.enter_async_context(channel.connect(address))
            rigs.append(Rig(gateway, connection))
            await rigs[-1].engines(len(engines) if joined is None else joined)
            return rigs[-1]

        yield _start
        for rig in rigs:
            await rig.idle()


async def ends(answers: Sequence[Answer]) -> None:
    """Waits for the end of all."""
    for answer in answers:
        await answer.end()


async def running(rig: Rig, engine: FakeEngine, prompt: str = "count to 9") -> tuple[Answer, int]:
    """A request that the engine has, and its number there."""
    answer = await rig.queued(prompt)
    await until(lambda: engine.running)
    return answer, engine.only
