"""From records to figures: completion times, throughput, ranking, the oracle's share.

Pure arithmetic on records. Means and tails side by side, and throughput over the
whole window, from the first arrival to the last end.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy import stats

from ssjf_bench.replay import Record


@dataclass(frozen=True, slots=True)
class Spread:
    """A distribution in three figures, seconds. Percentiles are interpolated linearly."""

    mean_s: float
    """Mean."""
    p50_s: float
    """Median."""
    p99_s: float
    """99th percentile."""


@dataclass(frozen=True, slots=True)
class Summary:
    """One replay in figures. Failed requests count in `failed` and nowhere else."""

    arrivals: str
    """Name of the arrival process."""
    policy: str
    """Name of the policy."""
    requests: int
    """Requests sent."""
    failed: int
    """Requests that did not finish."""
    jct: Spread | None
    """Job completion times; None where nothing finished."""
    ttft: Spread | None
    """Times to the first token."""
    output_tokens: int
    """Tokens of all finished answers."""
    window_s: float
    """From the first arrival to the last end."""
    output_tokens_per_s: float
    """`output_tokens` over `window_s`."""
    kendall_tau_b: float | None
    """Predicted against actual output tokens; None where it is not defined."""
    priors_used: int
    """Finished requests that were queued under the prior to the end."""


def summarise(arrivals: str, policy: str, records: Sequence[Record]) -> Summary:
    """The figures of one replay; `records` is not empty."""
    done = [record for record in records if record.ok]
    output_tokens = sum(record.output_tokens for record in done)
    window_s = _window_s(records)
    return Summary(
        arrivals=arrivals,
        policy=policy,
        requests=len(records),
        failed=len(records) - len(done),
        jct=spread(record.jct_s for record in done),
        ttft=spread(record.ttft_s for record in done),
        output_tokens=output_tokens,
        window_s=window_s,
        output_tokens_per_s=output_tokens / window_s if window_s > 0 else 0.0,
        kendall_tau_b=kendall_tau_b(done),
        priors_used=sum(record.predicted_by_model is False for record in done),
    )


def _window_s(records: Sequence[Record]) -> float:
    first_s = min(record.arrival_s for record in records)
    return max(record.end_s or first_s for record in records) - first_s


def spread(values_s: Iterable[float | None]) -> Spread | None:
    """Mean and percentiles of the values that there are; None where there are none."""
    known = [value for value in values_s if value is not None]
    if not known:
        return None
    p50_s, p99_s = np.percentile(known, [50, 99])
    return Spread(float(np.mean(known)), float(p50_s), float(p99_s))


def kendall_tau_b(records: Sequence[Record]) -> float | None:
    """Kendall's τ-b of predicted against actual output tokens (ties count for neither side).

    None with fewer than two requests, or where either side is all ties.
    """
    pairs = [(r.predicted_tokens, r.output_tokens) for r in records if r.predicted_tokens]
    predicted = [pair[0] for pair in pairs]
    actual = [pair[1] for pair in pairs]
    if len(set(predicted)) < 2 or len(set(actual)) < 2:
        return None
    return float(stats.kendalltau(predicted, actual, variant="b").statistic)


def share_of_oracle_gain(fcfs: Summary, ssjf: Summary, oracle: Summary) -> float | None:
    """How much of what knowing the lengths gains in mean JCT the predictions gain.

    (fcfs - ssjf) / (fcfs - oracle); None where the oracle gains nothing.
    """
    if fcfs.jct is None or ssjf.jct is None or oracle.jct is None:
        return None
    ceiling_s = fcfs.jct.mean_s - oracle.jct.mean_s
    return (fcfs.jct.mean_s - ssjf.jct.mean_s) / ceiling_s if ceiling_s > 0 else None


def capacity_requests_per_s(records: Sequence[Record]) -> float:
    """What the engine finishes when it is full, from a burst.

    Tokens that came between the first start and the last (in between, requests wait, so
    every place is taken), over that time, divided by the mean tokens of an answer. The
    emptying tail after the last start would understate it. Where fewer requests came
    than there are places, the whole burst counts. Raises ValueError where nothing finished.
    """
    done = [record for record in records if record.ok and record.output_tokens]
    if not done:
        raise ValueError("no request finished: the capacity is not known")
    mean_tokens = sum(record.output_tokens for record in done) / len(done)
    times_s = np.sort(np.concatenate([record.token_times_s for record in done]))
    starts_s = [record.started_s for record in done if record.started_s is not None]
    begin_s, end_s = min(starts_s), max(starts_s)
    inside = int(np.count_nonzero((times_s >= begin_s) & (times_s <= end_s)))
    if inside < mean_tokens:
        begin_s, end_s, inside = min(starts_s), float(times_s[-1]), len(times_s)
    return inside / (end_s - begin_s) / mean_tokens


def differing_answers(*replays: Sequence[Record]) -> list[str]:
    """Ids of finished requests whose text is not the same in all replays."""
    texts: dict[str, set[str]] = {}
    for record in (record for records in replays for record in records if record.ok):
        texts.setdefault(record.request.request_id, set()).add(record.text)
    return [request_id for request_id, found in texts.items() if len(found) > 1]


def failures(records: Iterable[Record]) -> list[str]:
    """A line for each request that did not finish."""
    return [
        f"{record.request.request_id}: {record.outcome} {record.error}".rstrip()
        for record in records
        if not record.ok
    ]


def to_json(summary: Summary, records: Sequence[Record]) -> dict[str, Any]:
    """A replay as plain data: its figures, then each request's times and lengths."""
    return {**asdict(summary), "records": [_row(record) for record in records]}


def _row(record: Record) -> dict[str, Any]:
    return {
        "request_id": record.request.request_id,
        "seed": record.request.seed,
        "outcome": record.outcome,
        "error": record.error,
        "finish_reason": record.finish_reason,
        "arrival_s": record.arrival_s,
        "sent_s": record.sent_s,
        "queued_s": record.queued_s,
        "started_s": record.started_s,
        "first_token_s": record.token_times_s[0] if record.token_times_s else None,
        "end_s": record.end_s,
        "predicted_tokens": record.predicted_tokens,
        "predicted_by_model": record.predicted_by_model,
        "output_tokens": record.output_tokens,
    }
