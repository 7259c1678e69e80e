"""Who may come in: draining, ids in use, limits, hopeless deadlines.

Owns the requests from their arrival to their end, accepted or not, and every refusal at
the door with its estimate of when to try again. Called by the service; reads the
dispatcher's core and tally, changes neither.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final

from gateway_svc import metrics
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.quota import CoreFull, Tenant
from ssjf.wire import errors

MIN_RETRY_S: Final = 0.1
MAX_RETRY_S: Final = 300.0
UNKNOWN_RETRY_S: Final = 1.0
"""Told while no answer has been timed yet."""


@dataclass(frozen=True, slots=True)
class Doors:
    """What admission is held to."""

    max_queued: int
    """Requests that may wait or be on their way to."""
    refuse_hopeless: bool
    """Whether a deadline that cannot be met is refused at once."""
    whole_batches: bool = False
    """Whether even a free place is no start: a batch waits for company and runs as a whole."""


class Admission:
    """Every request that is here."""

    def __init__(self, doors: Doors, dispatcher: Dispatcher) -> None:
        self.draining = False
        self._doors = doors
        self._dispatcher = dispatcher
        self._ids: set[str] = set()
        self._idle = asyncio.Event()
        self._idle.set()

    @contextmanager
    def enter(self, request_id: str, tenant: Tenant) -> Iterator[None]:
        """Holds the id while its request is here.

        Raises Draining, DuplicateRequest, and QueueFull where the queue has no place for it
        whatever its length.
        """
        if self.draining:
            raise errors.Draining("the gateway is shutting down", retry_after_s=1.0)
        if request_id in self._ids:
            raise errors.DuplicateRequest(f"request_id {request_id} is in the gateway already")
        self._check_places(tenant)
        self._ids.add(request_id)
        self._idle.clear()
        totals = self._dispatcher.tally.tenant(tenant.name)
        totals.present += 1
        try:
            yield
        finally:
            totals.present -= 1
            self._ids.discard(request_id)
            if not self._ids:
                self._idle.set()

    @property
    def place_is_free(self) -> bool:
        """Whether a request that comes now would start at once: then it needs no prediction."""
        core = self._dispatcher.core
        if self._doors.whole_batches or core.waiting_count:
            return False
        return self.preparing <= self._dispatcher.free_places

    @property
    def preparing(self) -> int:
        """Requests that are here and not accepted yet."""
        return len(self._ids) - self._dispatcher.live_count

    def full(self, limit: CoreFull) -> errors.QueueFull:
        """The refusal of a request that has met a limit; counts it."""
        return self._full(limit.subject, limit.limit, limit.tenant)

    def check_deadline(self, job: Job, now_s: float) -> None:
        """Raises DeadlineTooSoon where `job` is predicted to end after its deadline."""
        rate = self._dispatcher.rate.busy()
        if not self._doors.refuse_hopeless or math.isinf(job.deadline_s) or not rate:
            return
        core = self._dispatcher.core
        if self.place_is_free or core.can_meet(job, now_s, rate):
            return
        wait_s = core.predicted_wait_s(job, rate)
        text = f"{job.deadline_s - now_s:.1f} s are left, a wait of {wait_s:.1f} s is predicted"
        raise errors.DeadlineTooSoon(text, retry_after_s=_bounded(wait_s))

    async def drain(self) -> None:
        """Refuses new requests and returns when none is left; cancelled, it fails the rest."""
        self.draining = True
        try:
            await self._idle.wait()
        finally:
            self._dispatcher.fail_all(
                lambda: errors.Interrupted("the gateway stopped", retry_after_s=1.0)
            )

    @property
    def idle(self) -> bool:
        """Whether no request is here."""
        return not self._ids

    def _check_places(self, tenant: Tenant) -> None:
        """Requests that are being prepared count: they will want a place in a moment."""
        tally = self._dispatcher.tally
        waiting = self._dispatcher.core.waiting_count
        if self.preparing + waiting >= self._doors.max_queued:
            raise self._full("queued_requests", self._doors.max_queued, None)
        if tally.tenant(tenant.name).present - tally.running_of(tenant.name) >= tenant.max_queued:
            raise self._full("queued_requests", tenant.max_queued, tenant.name)

    def _full(self, subject: str, limit: int, tenant: str | None) -> errors.QueueFull:
        tally = self._dispatcher.tally
        tokens = tally.waiting_tokens if tenant is None else tally.waiting_tokens_of(tenant)
        if tenant is not None:
            tally.tenant(tenant).refused += 1
            metrics.TENANT_REFUSED.labels(tenant, subject).inc()
        rate = self._dispatcher.rate.busy()
        retry_s = tokens / rate if rate else UNKNOWN_RETRY_S
        name = f"gateway/{subject}" if tenant is None else f"tenants/{tenant}/{subject}"
        what = subject.replace("_", " ")
        return errors.QueueFull(name, f"at most {limit} {what}", _bounded(retry_s))


def _bounded(retry_s: float) -> float:
    return min(max(retry_s, MIN_RETRY_S), MAX_RETRY_S)
