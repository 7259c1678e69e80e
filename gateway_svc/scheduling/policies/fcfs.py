"""First come, first served: the baseline."""

from __future__ import annotations

from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import PolicyOptions, register


@register("fcfs")
class Fcfs:
    """Orders by arrival."""

    def __init__(self, options: PolicyOptions) -> None:
        del options  # the same shape for every policy

    def key(self, job: Job) -> float:
        """The time of arrival, in seconds."""
        return job.arrival_s
