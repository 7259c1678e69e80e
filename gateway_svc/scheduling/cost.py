"""Predicted service time of a job, from a model of the engine's step.

Cost = prefill of the uncached prompt + one decode step a predicted output token. Only the
ratio of the two rates changes the order.
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway_svc.scheduling.job import Job


@dataclass(frozen=True, slots=True)
class StepModel:
    """Milliseconds of service a token. Raises ValueError where a rate is not positive."""

    prefill_token_ms: float = 0.05
    decode_token_ms: float = 6.5

    def __post_init__(self) -> None:
        if not (self.prefill_token_ms >= 0 and self.decode_token_ms > 0):
            raise ValueError("step model: prefill_token_ms >= 0 and decode_token_ms > 0 wanted")

    def service_ms(self, job: Job, output_tokens: float) -> float:
        """Milliseconds to serve `job` alone if it has `output_tokens` of output."""
        return (
            job.uncached_prompt_tokens * self.prefill_token_ms
            + output_tokens * self.decode_token_ms
        )
