"""Shortest job first with the true lengths: the ceiling, for benchmarks only."""

from __future__ import annotations

from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import PolicyOptions, register


@register("oracle")
class Oracle:
    """Orders by true service time; a job whose length was not given keeps its prediction.

    Raises ValueError where the options carry no lengths.
    """

    def __init__(self, options: PolicyOptions) -> None:
        if options.oracle_lengths is None:
            raise ValueError("policy oracle needs the true lengths (--oracle-lengths)")
        self._lengths = options.oracle_lengths
        self._step_model = options.step_model

    def key(self, job: Job) -> float:
        """True service time, in milliseconds."""
        tokens = self._lengths.get(job.request_id, job.expected_output_tokens)
        return self._step_model.service_ms(job, float(tokens))
