"""Speculative shortest job first (Qiu et al., 2024, section 4): shortest predicted job first.

Pure: no ageing and no bound, so a long job can wait as long as shorter ones keep
coming.
"""

from __future__ import annotations

from gateway_svc.scheduling.job import Job
from gateway_svc.scheduling.policy import PolicyOptions, register


@register("ssjf")
class Ssjf:
    """Orders by predicted service time."""

    def __init__(self, options: PolicyOptions) -> None:
        self._step_model = options.step_model

    def key(self, job: Job) -> float:
        """Predicted service time, in milliseconds."""
        return self._step_model.service_ms(job, job.expected_output_tokens)
