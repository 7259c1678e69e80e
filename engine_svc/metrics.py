"""The engine's Prometheus series.

Fed on the serving side from what the loop reports, once a step, so that the loop pays
nothing for them and may run in another process.
"""

from __future__ import annotations

import enum
from collections import Counter as Tally
from typing import Final

from prometheus_client import Counter, Gauge, Histogram

from engine_svc.messages import Report

STEPS: Final = Counter("ssjf_engine_steps", "Steps of the engine loop.")
PROMPT_TOKENS: Final = Counter("ssjf_engine_prompt_tokens", "Prompt tokens read.")
CACHED_PROMPT_TOKENS: Final = Counter(
    "ssjf_engine_cached_prompt_tokens", "Prompt tokens found in the KV cache."
)
OUTPUT_TOKENS: Final = Counter("ssjf_engine_output_tokens", "Tokens generated.")
ENDED: Final = Counter("ssjf_engine_sequences", "Sequences that ended.", ["outcome"])
PREEMPTED: Final = Counter(
    "ssjf_engine_preempted", "Sequences that gave up their KV cache and were computed again."
)
OUT_OF_MEMORY: Final = Counter(
    "ssjf_engine_out_of_memory", "Steps that ran out of memory and were run again in parts."
)
RUNNING: Final = Gauge("ssjf_engine_running_sequences", "Sequences running or about to start.")
FREE_KV_TOKENS: Final = Gauge("ssjf_engine_free_kv_tokens", "Tokens of KV cache not reserved.")
STEP_SECONDS: Final = Histogram(
    "ssjf_engine_step_seconds",
    "Duration of a step.",
    buckets=(0.001, 0.0015, 0.002, 0.003, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)


def observe(report: Report) -> None:
    """Counts what a report says."""
    if report.sequence_ids or report.prompt_tokens:
        STEPS.inc()
        STEP_SECONDS.observe(report.step_ms / 1e3)
        OUTPUT_TOKENS.inc(len(report.sequence_ids))
        PROMPT_TOKENS.inc(report.prompt_tokens)
    CACHED_PROMPT_TOKENS.inc(sum(first.cached_prompt_tokens for first in report.first))
    ends = [finished.ending.reason for finished in report.finished]
    failures = [failed.code for failed in report.failed]
    for outcome, times in Tally[enum.Enum]([*ends, *failures]).items():
        ENDED.labels(outcome.name.lower()).inc(times)
    if report.capacity is not None:
        RUNNING.set(report.capacity.running_sequences)
        FREE_KV_TOKENS.set(report.capacity.free_kv_tokens)
    if report.preempted:
        PREEMPTED.inc(report.preempted)
    if report.out_of_memory:
        OUT_OF_MEMORY.inc(report.out_of_memory)


def observe_cancelled(sequences: int) -> None:
    """Counts sequences that the gateway, or the end of its stream, has stopped."""
    ENDED.labels("cancelled").inc(sequences)


def observe_detached(kv_tokens: int) -> None:
    """Nothing runs: the stream has ended."""
    RUNNING.set(0)
    FREE_KV_TOKENS.set(kv_tokens)
