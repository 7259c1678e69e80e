"""From live rows to figures: each run, each policy against FCFS and oracle, and the spread.

Pure arithmetic. The keys are those of `sim_report`, so that a live run reads like a simulated
one. Warm-up counts nowhere, throughput is over the whole window, and an invalid run is shown
but neither compared nor averaged. Called by `ssjf bench live` and `ssjf bench against-sim`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any, Final

import numpy as np

from ssjf_bench import live_records, sim_report
from ssjf_bench.live_records import LiveRow, RunHeader
from ssjf_bench.sim_predictions import kendall_tau_b

Summary = dict[str, Any]

CELL: Final = ("arrivals", "prompts", "mode", "max_batch", "max_wait_ms", "load")
"""What runs share that may be averaged; those that are compared share seed and repeat, too."""
COMPARED: Final = (
    *("mean_jct_change", "p99_jct_factor", "max_jct_factor", "share_of_oracle_gain"),
    *("throughput_factor", "output_tokens_factor"),
)
"""What a run has of its comparison with fcfs and oracle."""
AVERAGED: Final = (
    *("mean_jct_s", "p50_jct_s", "p90_jct_s", "p99_jct_s", "max_jct_s", "mean_wait_s"),
    *("mean_ttft_s", "p50_ttft_s", "p99_ttft_s", "mean_tpot_ms", "p50_tpot_ms", "p99_tpot_ms"),
    *("throughput_requests_s", "throughput_tokens_s", "kendall_tau_b", "mean_admission_ms"),
    *COMPARED,
)
"""Figures of which `spread` gives the mean, the least and the most."""
NO_FCFS: Final = "no valid run of fcfs to compare with"
NOT_VALID: Final = "the run is not valid"


def summaries(headers: Iterable[RunHeader], rows: Iterable[LiveRow]) -> list[Summary]:
    """A summary for each run, in the order of the headers.

    Its figures are None where nothing finished; `compared` says why there is no comparison,
    None where there is one.
    """
    by_run: dict[str, list[LiveRow]] = {}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    found = [_summary(header, by_run.get(header.run, [])) for header in headers]
    references = {
        (_pair(each), each["policy"]): each
        for each in found
        if not each["invalid"] and not each["options"]
    }
    for each in found:
        each |= _comparison(each, references)
    return found


def label(policy: str, options: Mapping[str, Any]) -> str:
    """Policy and the settings that were given, as tables and plots name it."""
    settings = " ".join(f"{name} {value}" for name, value in options.items())
    return f"{policy} {settings}".strip()


def cell(summary: Mapping[str, Any]) -> tuple[Any, ...]:
    """The values of `CELL`."""
    return tuple(summary[name] for name in CELL)


def cell_title(of: RunHeader | Mapping[str, Any]) -> str:
    """A cell's name for people; `of` is a header or a summary of it."""
    named = of if isinstance(of, Mapping) else {name: getattr(of, name) for name in CELL}
    places = "" if named["mode"] == "none" else f", batch {named['max_batch']}"
    return f"{named['mode']}{places}, load {named['load']:g}"


def spread(found: Sequence[Mapping[str, Any]]) -> list[Summary]:
    """The repeats of each cell and policy as one row: means, and the least and the most.

    Each of `AVERAGED` stands there as NAME, NAME_min and NAME_max, None where no valid run
    has it. `valid_runs` counts what was averaged, `invalid_runs` names what was left out.
    """
    groups: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for each in found:
        groups.setdefault((*cell(each), each["label"]), []).append(each)
    return [_spread(group) for group in groups.values()]


def checksums(files: Iterable[Path]) -> list[dict[str, str]]:
    """Name and SHA-256 of each file of raw records."""
    return [{"file": path.name, "sha256": live_records.sha256(path)} for path in files]


def _summary(header: RunHeader, rows: Sequence[LiveRow]) -> Summary:
    measured = [row for row in rows if row.measured]
    done = [row for row in measured if row.ok]
    errors = len(measured) - len(done)
    return {
        **{name: getattr(header, name) for name in ("run", "policy", "options")},
        "label": label(header.policy, header.options),
        **{name: getattr(header, name) for name in (*CELL, "repeat", "seed")},
        "offered_requests_s": header.offered_requests_s,
        "capacity_requests_s": header.capacity_requests_s,
        "invalid": _invalid(header, measured, errors),
        "warm_up_jobs": len(rows) - len(measured),
        "errors": errors,
        **figures(done),
        **_lag(measured),
        **_cost(header, done),
        "facts": dict(header.facts),
    }


def _invalid(header: RunHeader, measured: Sequence[LiveRow], errors: int) -> list[str]:
    """The header's reasons, and what the rows say themselves."""
    reasons = list(header.invalid)
    if not measured:
        reasons.append("no rows in the window")
    elif errors and not reasons:
        reasons.append(f"{errors} of {len(measured)} requests failed")
    return reasons


_TIMES: Final = (
    *("mean_jct_s", "p50_jct_s", "p90_jct_s", "p99_jct_s", "max_jct_s", "mean_wait_s"),
    *("max_wait_s", "mean_ttft_s", "p50_ttft_s", "p99_ttft_s", "window_s"),
    *("throughput_requests_s", "throughput_tokens_s"),
)
_TPOT: Final = ("mean_tpot_ms", "p50_tpot_ms", "p99_tpot_ms")


def figures(done: Sequence[LiveRow]) -> Summary:
    """The figures of the finished requests of one run; percentiles interpolated linearly.

    Times count from the arrival; TPOT is (end - first token) / (tokens - 1), over answers of
    at least two tokens. What is not known is None.
    """
    tokens = {"output_tokens": sum(row.output_tokens for row in done)}
    found: Summary = {"jobs": len(done), **tokens} | dict.fromkeys((*_TIMES, *_TPOT))
    if done:
        found |= _times(done)
    return found | {
        "kendall_tau_b": _tau_b(done),
        "priors_used": sum(row.predicted_by_model is False for row in done),
    }


def _times(done: Sequence[LiveRow]) -> Summary:
    arrival_s = _seconds(done, "arrival_s")
    end_s, started_s, first_s = (
        _seconds(done, name) for name in ("end_s", "started_s", "first_token_s")
    )
    jct_s, wait_s, ttft_s = end_s - arrival_s, started_s - arrival_s, first_s - arrival_s
    tokens = np.array([row.output_tokens for row in done])
    several = tokens > 1
    tpot_ms = 1e3 * (end_s - first_s)[several] / (tokens[several] - 1)
    window_s = float(end_s.max() - arrival_s.min())
    return {
        **_quantiles("jct_s", jct_s, 50, 90, 99),
        "max_jct_s": float(jct_s.max()),
        "mean_wait_s": float(wait_s.mean()),
        "max_wait_s": float(wait_s.max()),
        **_quantiles("ttft_s", ttft_s, 50, 99),
        **(_quantiles("tpot_ms", tpot_ms, 50, 99) if several.any() else {}),
        "window_s": window_s,
        "throughput_requests_s": len(done) / window_s,
        "throughput_tokens_s": float(tokens.sum()) / window_s,
    }


def _seconds(rows: Sequence[LiveRow], name: str) -> np.ndarray[Any, np.dtype[np.float64]]:
    """A moment of finished requests; one that no event told counts as the end."""
    given = ((getattr(row, name), row.end_s) for row in rows)
    return np.array([end_s if at_s is None else at_s for at_s, end_s in given], dtype=np.float64)


def _quantiles(
    name: str, values: np.ndarray[Any, np.dtype[np.float64]], *percents: int
) -> dict[str, float]:
    found = np.percentile(values, percents)
    named = {f"p{percent}_{name}": float(at) for percent, at in zip(percents, found, strict=True)}
    return {f"mean_{name}": float(values.mean())} | named


def _tau_b(done: Sequence[LiveRow]) -> float | None:
    pairs = [(r.predicted_tokens, r.output_tokens) for r in done if r.predicted_tokens is not None]
    predicted, actual = [pair[0] for pair in pairs], [pair[1] for pair in pairs]
    if len(set(predicted)) < 2 or len(set(actual)) < 2:
        return None
    return kendall_tau_b(predicted, actual)


def _lag(measured: Sequence[LiveRow]) -> Summary:
    """How late the load generator itself was."""
    if not measured:
        return {"p99_lag_ms": None, "max_lag_ms": None}
    lag_ms = [1e3 * (row.sent_s - row.arrival_s) for row in measured]
    return {"p99_lag_ms": float(np.percentile(lag_ms, 99)), "max_lag_ms": max(lag_ms)}


def _cost(header: RunHeader, done: Sequence[LiveRow]) -> Summary:
    """What it takes that requests are predicted and queued: time of each, and of the machine."""
    admission_ms = [1e3 * (row.queued_s - row.sent_s) for row in done if row.queued_s is not None]
    jobs = len(done)
    return {
        "mean_admission_ms": fmean(admission_ms) if admission_ms else None,
        "p99_admission_ms": float(np.percentile(admission_ms, 99)) if admission_ms else None,
        "cpu_s": dict(header.cpu_s),
        "cpu_ms_per_request": {
            name: 1e3 * used_s / jobs for name, used_s in header.cpu_s.items() if jobs
        },
        "cores": {name: used_s / header.window_s for name, used_s in header.cpu_s.items() if jobs},
    }


def _pair(summary: Mapping[str, Any]) -> tuple[Any, ...]:
    """What a run and the runs that it is compared with share."""
    return (*cell(summary), summary["seed"], summary["repeat"])


def _comparison(summary: Summary, references: Mapping[tuple[Any, ...], Summary]) -> Summary:
    nothing: Summary = dict.fromkeys(COMPARED)
    if summary["invalid"]:
        return nothing | {"compared": NOT_VALID}
    fcfs = references.get((_pair(summary), "fcfs"))
    if fcfs is None:
        return nothing | {"compared": NO_FCFS}
    oracle = references.get((_pair(summary), "oracle"))
    factors = {
        "throughput_factor": summary["throughput_requests_s"] / fcfs["throughput_requests_s"],
        "output_tokens_factor": summary["output_tokens"] / fcfs["output_tokens"],
    }
    return nothing | sim_report.against(summary, fcfs, oracle) | factors | {"compared": None}


def _spread(group: Sequence[Mapping[str, Any]]) -> Summary:
    valid = [each for each in group if not each["invalid"]]
    row: Summary = {name: group[0][name] for name in ("policy", "label", *CELL)}
    row |= {
        "valid_runs": len(valid),
        "invalid_runs": [each["run"] for each in group if each["invalid"]],
        "jobs": sum(each["jobs"] for each in valid),
    }
    for name in AVERAGED:
        known = [each[name] for each in valid if each[name] is not None]
        row[name] = fmean(known) if known else None
        row[f"{name}_min"] = min(known, default=None)
        row[f"{name}_max"] = max(known, default=None)
    return row
