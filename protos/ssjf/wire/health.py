"""`grpc.health.v1`: a state for each service of a server, and Watch.

The empty name stands for the whole server. States start NOT_SERVING and are set
by the composition root once there is something to serve.
"""

from __future__ import annotations

from grpc_health.v1 import health, health_pb2

Status = health_pb2.HealthCheckResponse


class Health:
    """The health states of one server; `servicer` is added to it."""

    def __init__(self, *services: str) -> None:
        self.services = ("", *services)
        self.servicer = health.aio.HealthServicer()

    async def start(self) -> None:
        """Declares every service NOT_SERVING."""
        for name in self.services:
            await self.set(name, serving=False)

    async def set(self, service: str, *, serving: bool) -> None:
        """Sets one service's state and tells those who watch it."""
        await self.servicer.set(service, Status.SERVING if serving else Status.NOT_SERVING)

    async def set_all(self, *, serving: bool) -> None:
        """Sets every service's state."""
        for name in self.services:
            await self.set(name, serving=serving)
