"""Jobs and cores for the scheduling tests."""

from __future__ import annotations

from typing import Any

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.core import Batch, SchedulingCore
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.quota import Limits

ENGINE = "engine-1"
WIDE = Room(sequences=100, kv_tokens=100_000)


def job(job_id: int, predicted_tokens: float = 10.0, **fields: Any) -> Job:
    """A job that arrives at second `job_id` unless told otherwise."""
    given: dict[str, Any] = {
        "request_id": f"r{job_id}",
        "arrival_s": float(job_id),
        "prompt_tokens": 10,
        "max_tokens": 1000,
    }
    return Job(job_id=job_id, predicted_tokens=predicted_tokens, **(given | fields))


def core_of(name: str = "ssjf", **limits: Any) -> SchedulingCore:
    return SchedulingCore(policy.create(name), Limits(**limits))


def ids(batch: Batch | None) -> list[int]:
    """The jobs of a batch, in its order."""
    return [job.job_id for job in batch.jobs] if batch else []
