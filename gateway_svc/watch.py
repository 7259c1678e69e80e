"""Looks at the queue once a second and puts every second waited down to its reason.

Owns the periodic metrics: waits by reason, levels by tenant and engine. Reads the
dispatcher's counts, never a queue from end to end. Called by the composition root, and
by snapshots for single requests.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Final

from gateway_svc import metrics
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.fleet import Fleet
from gateway_svc.scheduling.batching import Mode
from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.scheduling.quota import UNLIMITED
from gateway_svc.tally import Key
from gateway_svc.tenants import Tenants
from gateway_svc.waits import Supply, WaitReason, blocked, reasons

LOOK_INTERVAL_S: Final = 1.0


@dataclass(slots=True)
class Watch:
    """What there is for those who wait, and why they do."""

    dispatcher: Dispatcher
    fleet: Fleet
    tenants: Tenants
    mode: Mode
    max_running: int
    clock: Callable[[], float]
    _shown: set[tuple[Priority, WaitReason]] = field(default_factory=set)

    def turn(self) -> Key | None:
        """The class and tenant that goes next; None where none may."""
        turn = self.dispatcher.core.turn()
        return None if turn is None else (Priority(turn[0]), turn[1])

    def supply(self) -> Supply:
        """What there is now."""
        most = {each.name: each.max_running for each in self.tenants.all}
        return Supply(
            engines=len(self.dispatcher.engines),
            free_sequences=max(0, self.dispatcher.free_places),
            running=self.dispatcher.core.running_count,
            max_running=self.max_running,
            tenant_max_running={name: n for name, n in most.items() if n < UNLIMITED},
            mode=self.mode,
        )

    def explain(self) -> Callable[[Job], WaitReason]:
        """Tells why jobs wait, asked for them in the order in which they would start."""
        supply, turn = self.supply(), self.turn()
        named: list[Job] = []

        def reason(job: Job) -> WaitReason:
            found = blocked((job.priority, job.tenant), self.dispatcher.tally, supply, turn)
            if found is WaitReason.ORDER and not named:
                named.append(job)  # the first whose turn it is
                return supply.head()
            return found

        return reason

    async def run(self) -> None:
        """Looks until cancelled."""
        last_s = self.clock()
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            now_s = self.clock()
            self.look(now_s - last_s)
            last_s = now_s

    def look(self, passed_s: float) -> None:
        """Puts `passed_s` seconds of everything that waits down to its reasons."""
        tally = self.dispatcher.tally
        waiting = self.dispatcher.core.waiting_count
        found = reasons(tally, self.supply(), self.turn()) if waiting else {}
        for (priority, reason), count in found.items():
            labels = (priority.name.lower(), reason.value)
            metrics.WAIT_BY_REASON.labels(*labels).inc(count * passed_s)
        for key in self._shown | found.keys():
            labels = (key[0].name.lower(), key[1].value)
            metrics.WAITING_BY_REASON.labels(*labels).set(found.get(key, 0))
        self._shown = set(found)
        self._levels()

    def _levels(self) -> None:
        tally, rate = self.dispatcher.tally, self.dispatcher.rate.busy()
        metrics.WAITING_TOKENS.set(tally.waiting_tokens)
        metrics.PREDICTED_WAIT.set(tally.waiting_tokens / rate if rate else 0.0)
        metrics.BOUND_VIOLATIONS.set(self.dispatcher.core.bound_violations)
        for tenant in tally.tenants:
            metrics.TENANT_WAITING.labels(tenant).set(tally.waiting_of(tenant))
            metrics.TENANT_RUNNING.labels(tenant).set(tally.running_of(tenant))
        for link in self.fleet.connected:
            metrics.ENGINE_FREE_PLACES.labels(link.name).set(link.last_capacity.free_sequences)
            metrics.ENGINE_FREE_KV.labels(link.name).set(link.last_capacity.free_kv_tokens)
