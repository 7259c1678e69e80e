"""What `GetQueue` and `GetServerInfo` show; reads, changes nothing."""

from __future__ import annotations

from dataclasses import asdict
from importlib.metadata import version
from itertools import islice

from gateway_svc import limits, translate
from gateway_svc.config import GatewaySettings
from gateway_svc.dispatcher import Dispatcher
from gateway_svc.fleet import Fleet
from gateway_svc.predictor_client import PredictorClient
from gateway_svc.scheduling.job import Job
from ssjf.engine.v1 import engine_pb2
from ssjf.gateway.v1 import gateway_pb2


def queue(dispatcher: Dispatcher, most: int, now_s: float) -> gateway_pb2.GetQueueResponse:
    """The queue and what runs, at most `most` entries each."""
    core = dispatcher.core
    waiting = [_entry(dispatcher, job, now_s) for job in islice(core.waiting(), most)]
    running = [_entry(dispatcher, job, now_s) for job, _ in islice(core.running(), most)]
    return gateway_pb2.GetQueueResponse(
        waiting=waiting,
        running=running,
        waiting_count=core.waiting_count,
        running_count=core.running_count,
        counters=gateway_pb2.Counters(**asdict(dispatcher.ledger)),
    )


def _entry(dispatcher: Dispatcher, job: Job, now_s: float) -> gateway_pb2.QueueEntry:
    live = dispatcher.live(job.job_id)
    waits = dispatcher.core.engine_of(job.job_id) is None
    waited_s = live.moments.waited_s + (now_s - live.moments.queued_s if waits else 0.0)
    return gateway_pb2.QueueEntry(
        request_id=job.request_id,
        priority=translate.PRIORITY_CLASSES[job.priority],
        prompt_tokens=job.prompt_tokens,
        predicted_tokens=job.expected_output_tokens,
        prediction_source=translate.source(live),
        waited_ms=waited_s * 1e3,
        output_tokens=live.output_tokens,
        engine_id=live.engine_name,
    )


def server_info(
    settings: GatewaySettings, fleet: Fleet, predictor: PredictorClient | None
) -> gateway_pb2.GetServerInfoResponse:
    """What the gateway serves, and how it schedules."""
    name = settings.policy.upper().replace("-", "_")
    return gateway_pb2.GetServerInfoResponse(
        version=version("ssjf"),
        model=fleet.model_name,
        policy=gateway_pb2.Policy.Value(f"POLICY_{name}"),
        batching_mode=engine_pb2.BATCHING_MODE_CONTINUOUS,
        engines=[
            gateway_pb2.EngineStatus(
                engine_id=link.name,
                model=link.welcome.model,
                limits=link.welcome.limits,
                capacity=link.last_capacity,
            )
            for link in fleet.connected
            if link.welcome is not None
        ],
        predictor=_predictor_status(settings, predictor),
        limits=gateway_pb2.ServerLimits(
            max_queued_requests=settings.max_queued,
            max_prompt_bytes=limits.MAX_PROMPT_BYTES,
            max_context_tokens=fleet.max_context_tokens,
            default_max_tokens=settings.default_max_tokens,
        ),
        benchmark=settings.benchmark,
    )


def _predictor_status(
    settings: GatewaySettings, predictor: PredictorClient | None
) -> gateway_pb2.PredictorStatus:
    if predictor is None:
        return gateway_pb2.PredictorStatus(degraded=True)
    return gateway_pb2.PredictorStatus(
        degraded=predictor.state.degraded,
        revision=predictor.state.revision,
        budget_ms=settings.prediction_budget_ms,
    )
