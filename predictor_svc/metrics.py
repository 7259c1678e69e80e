"""Prometheus series of the predictor. Names and meanings; who reports is elsewhere."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

CALLS = Counter("ssjf_predictor_calls", "Predict calls by outcome.", ["outcome"])
PROMPTS = Counter("ssjf_predictor_prompts", "Prompts predicted.")
BATCH_PROMPTS = Histogram(
    "ssjf_predictor_batch_prompts",
    "Prompts run together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
BATCH_SECONDS = Histogram(
    "ssjf_predictor_batch_seconds",
    "Duration of a batch in the model.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
WAITING = Gauge("ssjf_predictor_waiting_prompts", "Prompts admitted and not yet running.")
INFO = Gauge(
    "ssjf_predictor_info",
    "1, labelled with the execution provider in use and the model's revision.",
    ["provider", "revision"],
)


class Reporter:
    """The pipeline's observer."""

    def batch(self, prompts: int, seconds: float) -> None:
        """Counts a batch."""
        PROMPTS.inc(prompts)
        BATCH_PROMPTS.observe(prompts)
        BATCH_SECONDS.observe(seconds)

    def waiting(self, prompts: int) -> None:
        """Sets the gauge."""
        WAITING.set(prompts)
