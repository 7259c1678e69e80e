"""Live runs on the terminal: a table for each cell, why runs do not count, and what to know.

Owns the columns. Figures are `ssjf_bench.live_report`'s. Called by `ssjf bench live` and
`ssjf bench against-sim`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

MIN_WIDTH: Final = 132
NOTED_PRIORS: Final = 0.05
"""Share of requests from which on a missing prediction is said: the predictor was not up to it."""
NOTED_WORK: Final = 0.005
"""How far a run's output tokens may be from fcfs's before it is said: near saturation a mean
completion time moves by several times as much as the work."""


def show(
    summaries: Sequence[Mapping[str, Any]], spread: Sequence[Mapping[str, Any]], console: Console
) -> None:
    """A table a cell, then a line for each run that does not count or lacked predictions."""
    from ssjf_bench import live_report

    console.width = max(MIN_WIDTH, console.width)
    cells: dict[tuple[Any, ...], list[Mapping[str, Any]]] = {}
    for row in spread:
        cells.setdefault(live_report.cell(row), []).append(row)
    for rows in cells.values():
        console.print(_table(live_report.cell_title(rows[0]), rows))
    for each in summaries:
        if each["invalid"]:
            why = "; ".join(each["invalid"])
            console.print(f"not counted: {each['run']}: {why}", style="red", markup=False)
            continue
        if each["priors_used"] > NOTED_PRIORS * each["jobs"]:
            share = f"{each['priors_used']:,} of {each['jobs']:,} requests"
            console.print(
                f"{each['run']}: {share} were queued under the prior, as their predictions came "
                "late or not at all",
                style="yellow",
                markup=False,
            )
        if more := other_work(each):
            console.print(
                f"{each['run']}: {more} output tokens against fcfs's run: not the same work",
                style="yellow",
                markup=False,
            )


def other_work(row: Mapping[str, Any]) -> str:
    """By how much a run's output tokens differ from fcfs's, where that is to be said; else empty,
    as where there is no such run to compare with."""
    more = (row["output_tokens_factor"] or 1.0) - 1
    return f"{more:+.1%}" if abs(more) > NOTED_WORK else ""


_FIGURES: Final = (
    ("JCT s\nmean", "mean_jct_s", "{:,.2f}"),
    ("\np99", "p99_jct_s", "{:,.2f}"),
    ("to fcfs\nmean", "mean_jct_change", "{:+.1%}"),
    ("\nrepeats", None, ""),
    ("\np99 ×", "p99_jct_factor", "{:.2f}"),
    ("\nmax ×", "max_jct_factor", "{:.2f}"),
    ("oracle's\ngain", "share_of_oracle_gain", "{:.0%}"),
    ("TTFT s\np50", "p50_ttft_s", "{:,.2f}"),
    ("TPOT ms\nmean", "mean_tpot_ms", "{:,.1f}"),
    ("\ntokens/s", "throughput_tokens_s", "{:,.0f}"),
    ("\nτ-b", "kendall_tau_b", "{:.2f}"),
)
"""Heading, figure of a row of the spread, and how it is written; None: how far repeats reach."""


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    made.add_column("\npolicy", no_wrap=True)
    for heading in ("\nruns", *(heading for heading, _, _ in _FIGURES)):
        made.add_column(heading, justify="right", no_wrap=True)
    for row in rows:
        left_out = len(row["invalid_runs"])
        made.add_row(
            row["label"],
            f"{row['valid_runs']}" + (f" (−{left_out})" if left_out else ""),
            *(_range(row) if name is None else _as(row[name], form) for _, name, form in _FIGURES),
        )
    return made


def _as(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _range(row: Mapping[str, Any]) -> str:
    """The least and the greatest change of the mean, where they differ."""
    low, high = row["mean_jct_change_min"], row["mean_jct_change_max"]
    return "" if low == high else f"{100 * low:+.1f}…{100 * high:+.1f}"
