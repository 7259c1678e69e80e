"""Live runs on the terminal: a table for each cell, and why runs do not count.

Owns the columns. Figures are `ssjf_bench.live_report`'s. Called by `ssjf bench live` and
`ssjf bench against-sim`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from rich import box
from rich.console import Console
from rich.table import Table

MIN_WIDTH: Final = 128


def show(
    summaries: Sequence[Mapping[str, Any]], spread: Sequence[Mapping[str, Any]], console: Console
) -> None:
    """A table a cell, then a line for each run that does not count, and why."""
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


_COLUMNS: Final = (
    *("policy", "runs", "mean JCT", "p99 JCT", "max JCT", "mean", "p99", "max"),
    *("oracle's gain", "p50 TTFT", "TPOT", "tokens/s", "τ-b"),
)


def _table(title: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in _COLUMNS:
        made.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for row in rows:
        left_out = len(row["invalid_runs"])
        made.add_row(
            row["label"],
            f"{row['valid_runs']}" + (f" (−{left_out})" if left_out else ""),
            *(_as(row[name], "{:,.2f} s") for name in ("mean_jct_s", "p99_jct_s", "max_jct_s")),
            _range(row, "mean_jct_change", "{:+.1%}"),
            _range(row, "p99_jct_factor", "{:.2f}") + _unit(row, "p99_jct_factor", " ×"),
            _as(row["max_jct_factor"], "{:.2f} ×"),
            _as(row["share_of_oracle_gain"], "{:.0%}"),
            _as(row["p50_ttft_s"], "{:,.2f} s"),
            _as(row["mean_tpot_ms"], "{:,.1f} ms"),
            _as(row["throughput_tokens_s"], "{:,.0f}"),
            _as(row["kendall_tau_b"], "{:.2f}"),
        )
    return made


def _as(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


def _range(row: Mapping[str, Any], name: str, form: str) -> str:
    """The mean, and how far the repeats reach."""
    value, low, high = row[name], row[f"{name}_min"], row[f"{name}_max"]
    if value is None or low == high:
        return _as(value, form)
    return f"{form.format(value)} ({form.format(low)}…{form.format(high)})"


def _unit(row: Mapping[str, Any], name: str, unit: str) -> str:
    return "" if row[name] is None else unit
