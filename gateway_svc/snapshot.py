"""What `GetQueue`, `WatchQueue` and `GetServerInfo` show; reads, changes nothing."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from itertools import islice
from typing import Final

from gateway_svc import limits, translate
from gateway_svc.config import GatewaySettings
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.engine_link import EngineLink
from gateway_svc.experience import Experience
from gateway_svc.fleet import Fleet
from gateway_svc.live import Where
from gateway_svc.ordering import Ordering
from gateway_svc.predictor_client import PredictorClient
from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.scheduling.quota import UNLIMITED
from gateway_svc.tenants import Tenants
from gateway_svc.waits import LengthBucket
from gateway_svc.watch import Watch
from ssjf.gateway.v1 import gateway_pb2

LONG: Final = 1000
REST: Final = 9.0
"""A snapshot of a queue of ten thousand takes tens of milliseconds. Where more than LONG
requests wait, those who ask again within so many times what the last one took are shown that
one, so that watching takes a tenth of the event loop at most."""


@dataclass(slots=True)
class Snapshots:
    """Makes snapshots of everything that the gateway has."""

    settings: GatewaySettings
    dispatcher: Dispatcher
    fleet: Fleet
    predictor: PredictorClient | None
    tenants: Tenants
    experience: Experience
    watch: Watch
    clock: Callable[[], float]
    _last: gateway_pb2.GetQueueResponse | None = None
    _last_most: int = 0
    _again_s: float = 0.0

    @property
    def _ordering(self) -> Ordering:
        return self.experience.ordering

    def queue(self, most: int) -> gateway_pb2.GetQueueResponse:
        """The queue and what runs, at most `most` entries each; a little old where it is long."""
        now_s = self.clock()
        if self._last is not None and most == self._last_most and now_s < self._again_s:
            return self._last
        made = self._queue(most, now_s)
        done_s = self.clock()
        self._last, self._last_most = made, most
        self._again_s = done_s + REST * (done_s - now_s) if made.waiting_count > LONG else 0.0
        return made

    def _queue(self, most: int, now_s: float) -> gateway_pb2.GetQueueResponse:
        core, tally = self.dispatcher.core, self.dispatcher.tally
        waiting = core.waiting(now_s) if most else []
        reason = self.watch.explain()
        rate = self.dispatcher.rate
        tokens_per_s = rate.busy()
        return gateway_pb2.GetQueueResponse(
            waiting=[
                self._entry(job, now_s, translate.WAIT_REASONS[reason(job)])
                for job in islice(waiting, most)
            ],
            running=[self._entry(job, now_s) for job, _ in islice(core.running(), most)],
            waiting_count=core.waiting_count,
            running_count=core.running_count,
            counters=gateway_pb2.Counters(**asdict(self.dispatcher.ledger)),
            classes=[self._class(priority, waiting, now_s) for priority in Priority],
            tenants=[self._tenant(name) for name in self._tenant_names()],
            engines=[_engine(link, now_s) for link in self.fleet.connected],
            waits=[_bucket(bucket) for bucket in self.experience.waits.buckets()],
            predictions=self._quality(),
            scheduling=self._scheduling(),
            output_tokens_per_s=rate.recent(now_s),
            queued_tokens=tally.waiting_tokens,
            predicted_wait_s=tally.waiting_tokens / tokens_per_s if tokens_per_s else math.inf,
        )

    def server_info(self) -> gateway_pb2.GetServerInfoResponse:
        """What the gateway serves, and how it schedules."""
        return gateway_pb2.GetServerInfoResponse(
            version=version("ssjf"),
            model=self.fleet.model_name,
            policy=_policy_number(self._ordering.configured),
            batching_mode=translate.BATCHING_MODES[self.settings.batching],
            engines=[
                gateway_pb2.EngineStatus(
                    engine_id=link.name,
                    model=link.welcome.model,
                    limits=link.welcome.limits,
                    capacity=link.last_capacity,
                )
                for link in self.fleet.connected
                if link.welcome is not None
            ],
            predictor=self._predictor_status(),
            limits=gateway_pb2.ServerLimits(
                max_queued_requests=self.settings.max_queued,
                max_prompt_bytes=limits.MAX_PROMPT_BYTES,
                max_context_tokens=self.fleet.max_context_tokens,
                default_max_tokens=self.settings.default_max_tokens,
                max_queued_tokens=self.settings.max_queued_tokens or 0,
                max_running_requests=self.settings.max_running or 0,
            ),
            benchmark=self.settings.benchmark,
            scheduling=self._scheduling(),
        )

    def _entry(
        self,
        job: Job,
        now_s: float,
        reason: gateway_pb2.WaitReason.ValueType = gateway_pb2.WAIT_REASON_UNSPECIFIED,
    ) -> gateway_pb2.QueueEntry:
        live = self.dispatcher.live(job.job_id)
        waits = live.where is Where.QUEUE
        waited_s = live.moments.waited_s + (now_s - live.moments.queued_s if waits else 0.0)
        return gateway_pb2.QueueEntry(
            request_id=job.request_id,
            priority=translate.PRIORITY_CLASSES[job.priority],
            prompt_tokens=job.prompt_tokens,
            predicted_tokens=live.job.expected_output_tokens,
            prediction_source=translate.source(live),
            waited_ms=waited_s * 1e3,
            output_tokens=live.output_tokens,
            engine_id=live.engine_name,
            tenant=job.tenant,
            wait_reason=reason,
        )

    def _class(
        self, priority: Priority, waiting: list[Job], now_s: float
    ) -> gateway_pb2.ClassQueue:
        group = self.dispatcher.tally.of_class(priority)
        arrivals = (job.arrival_s for job in waiting if job.priority is priority)
        return gateway_pb2.ClassQueue(
            priority=translate.PRIORITY_CLASSES[priority],
            waiting_count=group.waiting,
            running_count=group.running,
            queued_tokens=group.waiting_tokens,
            longest_wait_ms=max(0.0, now_s - min(arrivals, default=now_s)) * 1e3,
        )

    def _tenant_names(self) -> list[str]:
        known = [tenant.name for tenant in self.tenants.all]
        return [*known, *sorted(self.dispatcher.tally.tenants.keys() - set(known))]

    def _tenant(self, name: str) -> gateway_pb2.TenantQueue:
        tally = self.dispatcher.tally
        totals = tally.tenant(name)
        return gateway_pb2.TenantQueue(
            tenant=name,
            waiting_count=tally.waiting_of(name),
            running_count=tally.running_of(name),
            queued_tokens=tally.waiting_tokens_of(name),
            weight=next((each.weight for each in self.tenants.all if each.name == name), 0.0),
            output_tokens=totals.output_tokens,
            refused=totals.refused,
        )

    def _quality(self) -> gateway_pb2.PredictionQuality:
        window = self._ordering.window
        return gateway_pb2.PredictionQuality(
            count=window.count,
            tau_b=window.tau_b,
            predicted_to_actual=window.predicted_to_actual,
            p90_coverage=window.p90_coverage,
        )

    def _scheduling(self) -> gateway_pb2.SchedulingStatus:
        settings, ordering = self.settings, self._ordering
        return gateway_pb2.SchedulingStatus(
            policy=ordering.configured,
            active_policy=ordering.active,
            fallback=ordering.trust.lost,
            fallback_tau_b=ordering.trust.lowest or 0.0,
            batching_mode=translate.BATCHING_MODES[settings.batching],
            max_batch=1 if settings.batching == "none" else settings.max_batch,
            max_batch_wait_ms=settings.max_batch_wait_ms if settings.batching == "dynamic" else 0,
            alpha=ordering.policy.alpha or 0.0,
            bound_violations=self.dispatcher.core.bound_violations,
        )

    def _predictor_status(self) -> gateway_pb2.PredictorStatus:
        if self.predictor is None:
            return gateway_pb2.PredictorStatus(degraded=True)
        return gateway_pb2.PredictorStatus(
            degraded=self.predictor.state.degraded,
            revision=self.predictor.state.revision,
            budget_ms=self.settings.prediction_budget_ms,
            quality=self._quality(),
        )


def _engine(link: EngineLink, now_s: float) -> gateway_pb2.EngineQueue:
    capacity, welcome = link.last_capacity, link.welcome
    return gateway_pb2.EngineQueue(
        engine_id=link.name,
        running_count=capacity.running_sequences,
        max_sequences=link.places,
        free_kv_tokens=capacity.free_kv_tokens,
        kv_tokens=min(welcome.limits.kv_tokens, UNLIMITED) if welcome is not None else 0,
        output_tokens_per_s=link.rate.recent(now_s),
    )


def _bucket(bucket: LengthBucket) -> gateway_pb2.WaitBucket:
    return gateway_pb2.WaitBucket(
        from_tokens=bucket.from_tokens,
        below_tokens=bucket.below_tokens,
        count=bucket.count,
        mean_wait_ms=bucket.mean_wait_s * 1e3,
        p90_wait_ms=bucket.p90_wait_s * 1e3,
        mean_predicted_tokens=bucket.mean_predicted_tokens,
        mean_actual_tokens=bucket.mean_actual_tokens,
    )


def _policy_number(name: str) -> gateway_pb2.Policy.ValueType:
    number = f"POLICY_{name.upper().replace('-', '_')}"
    known = number in gateway_pb2.Policy.keys()  # noqa: SIM118 (no mapping)
    return gateway_pb2.Policy.Value(number) if known else gateway_pb2.POLICY_UNSPECIFIED
