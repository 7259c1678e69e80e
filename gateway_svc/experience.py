"""What the gateway learns from every request that an engine has finished.

Feeds the prior, the verdict on predictions, the waits by length and the metrics of
finished requests. Called by the dispatcher, once for each.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway_svc import metrics
from gateway_svc.live import LiveRequest
from gateway_svc.ordering import Ordering
from gateway_svc.prior import PromptLengthPrior
from gateway_svc.quality import Outcome
from gateway_svc.tally import Tally
from gateway_svc.waits import Waited, WaitHistory
from ssjf.engine.v1 import sampling_pb2


@dataclass(slots=True)
class Experience:
    """Everything that remembers finished requests."""

    prior: PromptLengthPrior
    ordering: Ordering
    tally: Tally
    waits: WaitHistory = field(default_factory=WaitHistory)

    def finished(self, live: LiveRequest, now_s: float) -> None:
        """Takes a finished request into account."""
        job, tokens = live.job, live.output_tokens
        self.prior.learn(job.prompt_tokens, tokens)
        waited = Waited(live.moments.waited_s, job.expected_output_tokens, tokens)
        self.waits.add(waited)
        self.tally.tenant(job.tenant).output_tokens += tokens
        self._observe(live, now_s)
        if live.from_model and tokens and _ended_by_itself(live):
            outcome = Outcome(job.predicted_tokens, tokens, job.predicted_p90_tokens)
            self.ordering.learn(outcome, now_s)

    def _observe(self, live: LiveRequest, now_s: float) -> None:
        moments, tokens = live.moments, live.output_tokens
        priority = live.job.priority.name.lower()
        metrics.JCT.labels(priority).observe(now_s - moments.received_s)
        metrics.OUTPUT_TOKENS.inc(tokens)
        metrics.TENANT_OUTPUT_TOKENS.labels(live.job.tenant).inc(tokens)
        if tokens:
            metrics.TTFT.labels(priority).observe(moments.first_token_s - moments.received_s)
            metrics.PREDICTION_RATIO.observe(live.job.expected_output_tokens / tokens)


def _ended_by_itself(live: LiveRequest) -> bool:
    """Whether the answer's length is its own; one that was cut off says only "at least"."""
    end = live.finished
    return end is not None and end.reason != sampling_pb2.FINISH_REASON_LENGTH
