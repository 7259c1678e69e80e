"""Predicted work of a job, from a model of the engine's step.

Cost = prefill of the uncached prompt + one decode step a predicted output token, in units
of one output token: only the ratio of the two rates changes the order.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway_svc.scheduling.job import Job


@dataclass(frozen=True, slots=True)
class StepModel:
    """Milliseconds of service a token. Raises ValueError where a rate is not positive."""

    prefill_token_ms: float = 0.05
    """One prompt token."""
    decode_token_ms: float = 6.5
    """One output token of a job that runs alone."""

    def __post_init__(self) -> None:
        if not (self.prefill_token_ms >= 0 and self.decode_token_ms > 0):
            raise ValueError("step model: prefill_token_ms >= 0 and decode_token_ms > 0 wanted")

    @property
    def prefill_work(self) -> float:
        """Work of one prompt token, in output tokens."""
        return self.prefill_token_ms / self.decode_token_ms

    def work_tokens(self, job: Job, output_tokens: float) -> float:
        """Work of `job` if it has `output_tokens` of output, in output tokens."""
        return job.uncached_prompt_tokens * self.prefill_work + output_tokens

    def service_s(self, work_tokens: float) -> float:
        """Seconds that this work takes alone on an engine."""
        return work_tokens * self.decode_token_ms / 1e3
