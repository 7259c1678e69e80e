"""The engine's Prometheus series.

Written by the engine thread, once a step.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import Counter, Gauge, Histogram

STEPS: Final = Counter("ssjf_engine_steps", "Steps of the engine loop.")
PROMPT_TOKENS: Final = Counter("ssjf_engine_prompt_tokens", "Prompt tokens read.")
OUTPUT_TOKENS: Final = Counter("ssjf_engine_output_tokens", "Tokens generated.")
ENDED: Final = Counter("ssjf_engine_sequences", "Sequences that ended.", ["outcome"])
OUT_OF_MEMORY: Final = Counter(
    "ssjf_engine_out_of_memory", "Steps that ran out of memory and were run again in parts."
)
RUNNING: Final = Gauge("ssjf_engine_running_sequences", "Sequences running or about to start.")
FREE_KV_TOKENS: Final = Gauge("ssjf_engine_free_kv_tokens", "Tokens of KV cache not reserved.")
STEP_SECONDS: Final = Histogram(
    "ssjf_engine_step_seconds",
    "Duration of a step.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5),
)
