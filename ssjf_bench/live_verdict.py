"""Whether a live run counts, and what else is worth knowing of it.

Pure: from rows and from what the client saw of itself to facts, and to the reasons for
which a run is invalid. A run counts only if every request finished, every forced length
came true, and the client was hardly ever late. Called by `ssjf bench live`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np

from ssjf_bench.live_records import LiveRow

LATE_S: Final = 0.05
LATE_SHARE: Final = 0.02
"""A client whose 99th percentile of lateness is above LATE_S, and above this share of the mean
completion time, could not keep up."""


def facts(
    rows: Sequence[LiveRow],
    *,
    tick_lag_s: Sequence[float],
    generator_cores: float,
    recorded: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Figures of the window beside completion times; times in milliseconds.

    `recorded`: real text's lengths by request id, as the oracle is told them.
    """
    lag_s = [row.sent_s - row.arrival_s for row in rows]
    known = [row for row in rows if row.predicted_by_model is not None]
    found: dict[str, Any] = {
        "lag_p99_ms": _percentile(lag_s, 99) * 1e3,
        "lag_max_ms": max(lag_s, default=0.0) * 1e3,
        "reading_lag_p99_ms": _percentile(tick_lag_s, 99) * 1e3,
        "generator_cores": generator_cores,
        "priors_used_share": _share(row.predicted_by_model is False for row in known),
        "longest_prompt_tokens": max((row.prompt_tokens or 0 for row in rows), default=0),
    }
    if recorded is not None:
        ended = [row for row in rows if row.ok and row.request_id in recorded]
        found["lengths_unlike_recording_share"] = _share(
            row.output_tokens != recorded[row.request_id] for row in ended
        )
    return found


def reasons(rows: Sequence[LiveRow], facts: Mapping[str, Any], broken: str) -> list[str]:
    """Why the run does not count; empty where it does.

    `rows` of the warm-up and of the window; `broken` says which service ended.
    """
    found = broken.splitlines()[:1]  # its log stands below
    failed = [row for row in rows if not row.ok]
    if failed:
        first = f"{failed[0].outcome} {failed[0].error}".strip()
        found.append(f"{len(failed)} of {len(rows)} requests did not finish, the first: {first}")
    unlike = [row for row in rows if row.ok and row.forced_tokens not in (None, row.output_tokens)]
    if unlike:
        row = unlike[0]
        what = f"request {row.request_id} has {row.output_tokens} tokens, not {row.forced_tokens}"
        found.append(f"{len(unlike)} answers are not as long as forced: {what}")
    return found + _late(rows, facts)


def _late(rows: Sequence[LiveRow], facts: Mapping[str, Any]) -> list[str]:
    jct_s = [row.jct_s for row in rows if row.measured and row.jct_s is not None]
    bound_ms = 1e3 * max(LATE_S, LATE_SHARE * float(np.mean(jct_s)) if jct_s else 0.0)
    found = []
    for name, what in (("lag_p99_ms", "sent"), ("reading_lag_p99_ms", "read")):
        if facts[name] > bound_ms:
            cores = f"{facts['generator_cores']:.2f} cores"
            found.append(
                f"the load generator could not keep up ({cores}, one process): it {what} "
                f"{facts[name]:.0f} ms late at the 99th percentile, above {bound_ms:.0f} ms"
            )
    return found


def window_s(rows: Sequence[LiveRow]) -> float:
    """From the first arrival to the last end of what is measured; 0 for nothing."""
    measured = [row for row in rows if row.measured]
    if not measured:
        return 0.0
    first_s = min(row.arrival_s for row in measured)
    return max(row.end_s or first_s for row in measured) - first_s


def _percentile(values: Sequence[float], at: float) -> float:
    return float(np.percentile(values, at)) if values else 0.0


def _share(truths: Any) -> float:
    listed = list(truths)
    return sum(listed) / len(listed) if listed else 0.0
