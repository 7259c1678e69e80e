"""Prometheus series of the predictor. Names and meanings; who reports is elsewhere."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

from predictor_svc.llm_names import How
from predictor_svc.loaded import LoadedModel

CALLS = Counter("ssjf_predictor_calls", "Predict calls by outcome.", ["outcome"])
PROMPTS = Counter("ssjf_predictor_prompts", "Prompts predicted.")
BATCH_PROMPTS = Histogram(
    "ssjf_predictor_batch_prompts",
    "Prompts run together.",
    buckets=(1, 2, 4, 8, 16, 32, 64, 128, 256),
)
BATCH_SECONDS = Histogram(
    "ssjf_predictor_batch_seconds",
    "Seconds from a batch's start to its predictions.",
    buckets=(0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
WAITING = Gauge("ssjf_predictor_waiting_prompts", "Prompts that are in no batch yet.")
LOOKUPS = Counter("ssjf_predictor_cache_lookups", "Prompts looked up in the cache.", ["outcome"])
LLMS = Counter(
    "ssjf_predictor_llm_names",
    "Prompts by how their LLM's name was read, where the model tells LLMs apart.",
    ["how"],
)
MODELS = Counter("ssjf_predictor_models", "Models taken over from the folder, or not.", ["outcome"])
INFO = Gauge(
    "ssjf_predictor_info",
    "1, labelled with the execution provider in use, the graph's precision and the revision.",
    ["provider", "precision", "revision"],
)

_OK = CALLS.labels("ok")
_HITS, _MISSES = LOOKUPS.labels("hit"), LOOKUPS.labels("miss")
_TAKEN, _REFUSED = MODELS.labels("taken"), MODELS.labels("refused")


def count_call(outcome: str) -> None:
    """Counts a Predict call that has ended."""
    (_OK if outcome == "ok" else CALLS.labels(outcome)).inc()


def count_llm(how: How, prompts: int) -> None:
    """Counts prompts whose LLM's name was read so."""
    LLMS.labels(how).inc(prompts)


class Reporter:
    """The observer of pipelines and models."""

    def batch(self, prompts: int, seconds: float) -> None:
        """Counts a batch."""
        PROMPTS.inc(prompts)
        BATCH_PROMPTS.observe(prompts)
        BATCH_SECONDS.observe(seconds)

    def waiting(self, prompts: int) -> None:
        """Sets the gauge."""
        WAITING.set(prompts)

    def looked_up(self, hits: int, misses: int) -> None:
        """Counts what the cache held and what it did not."""
        if hits:
            _HITS.inc(hits)
        if misses:
            _MISSES.inc(misses)

    def serving(self, model: LoadedModel) -> None:
        """Counts the model; the gauge has its labels alone."""
        _TAKEN.inc()
        INFO.clear()
        INFO.labels(model.session.provider, model.precision, model.manifest.revision).set(1)

    def refused(self) -> None:
        """Counts a broken model."""
        _REFUSED.inc()
