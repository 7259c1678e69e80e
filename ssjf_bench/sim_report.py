"""From a simulation's outcome to figures, and policies of one cell side by side.

Pure arithmetic. Throughput is over the whole window, from the first arrival to the last
end. Called by `sim_run` and `frontier`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ssjf_bench.simulator import Outcome


def figures(outcome: Outcome) -> dict[str, Any]:
    """The outcome as plain data; times in seconds, percentiles interpolated linearly."""
    jct_s = outcome.end_s - outcome.arrival_s
    window_s = float(outcome.end_s.max() - outcome.arrival_s[0])
    p50_s, p90_s, p99_s = np.percentile(jct_s, [50, 90, 99])
    jobs = len(jct_s)
    return {
        "jobs": jobs,
        "mean_jct_s": float(jct_s.mean()),
        "p50_jct_s": float(p50_s),
        "p90_jct_s": float(p90_s),
        "p99_jct_s": float(p99_s),
        "max_jct_s": float(jct_s.max()),
        "mean_wait_s": float((outcome.start_s - outcome.arrival_s).mean()),
        "max_wait_s": float((outcome.start_s - outcome.arrival_s).max()),
        "mean_ttft_s": float((outcome.first_token_s - outcome.arrival_s).mean()),
        "p99_ttft_s": float(np.percentile(outcome.first_token_s - outcome.arrival_s, 99)),
        "window_s": window_s,
        "throughput_requests_s": jobs / window_s,
        "throughput_tokens_s": float(outcome.output_tokens.sum()) / window_s,
        "bound_violations": outcome.bound_violations,
        "simulated_jobs_per_s": jobs / outcome.wall_s,
        "simulated_jobs_per_cpu_s": jobs / max(outcome.cpu_s, 1e-9),
    }


def against(
    row: Mapping[str, Any], fcfs: Mapping[str, Any], oracle: Mapping[str, Any] | None
) -> dict[str, Any]:
    """How a policy compares with first come, first served, and with knowing every length.

    `mean_jct_change` is relative (-0.3: 30 % less); p99 and the maximum of completion times
    are factors; `share_of_oracle_gain` is None where the oracle gains nothing, or there is none.
    """
    ceiling_s = fcfs["mean_jct_s"] - oracle["mean_jct_s"] if oracle is not None else 0.0
    return {
        "mean_jct_change": row["mean_jct_s"] / fcfs["mean_jct_s"] - 1,
        "p99_jct_factor": row["p99_jct_s"] / fcfs["p99_jct_s"],
        "max_jct_factor": row["max_jct_s"] / fcfs["max_jct_s"],
        "share_of_oracle_gain": (fcfs["mean_jct_s"] - row["mean_jct_s"]) / ceiling_s
        if ceiling_s > 0
        else None,
    }
