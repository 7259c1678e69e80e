"""Live runs by cell: what shares arrivals, prompts, batching and load, valid runs alone.

Pure. Owns the grouping that plots and the simulator's comparison share; figures are
`live_report`'s. Called by `live_plots` and `live_against_sim`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ssjf_bench import live_report
from ssjf_bench.live_records import LiveRow, Run, RunHeader


@dataclass(frozen=True, slots=True)
class Cell:
    """The valid runs of one cell."""

    key: tuple[Any, ...]
    """Values of `live_report.CELL`; the load is the last."""
    title: str
    """For people."""
    runs: Mapping[str, Sequence[Run]]
    """By label, repeats in their order; at least one each."""
    summaries: Sequence[Mapping[str, Any]]
    """As `live_report.summaries` makes them, of these runs."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The policies, with their settings."""
        return tuple(self.runs)

    @property
    def load(self) -> float:
        """Offered requests a second as a share of capacity."""
        return float(self.key[-1])

    @property
    def fcfs(self) -> str | None:
        """The label that everything is compared with; None where no such run is valid."""
        return "fcfs" if "fcfs" in self.runs else None

    def first(self, label: str) -> Sequence[LiveRow]:
        """Rows of its first valid repeat, warm-up among them."""
        return self.runs[label][0].rows

    def jct_s(self, label: str) -> list[float]:
        """Completion times of all repeats, warm-up left out."""
        return [jct_s for _, jct_s in self.tokens_and_jct_s(label)]

    def tokens_and_jct_s(self, label: str) -> list[tuple[int, float]]:
        """Output tokens and completion time of each, all repeats, warm-up left out."""
        return [
            (row.output_tokens, row.jct_s)
            for run in self.runs[label]
            for row in run.rows
            if row.measured and row.jct_s is not None
        ]


def cells(headers: Sequence[RunHeader], rows: Iterable[LiveRow]) -> list[Cell]:
    """The cells that have valid runs, in the order of the headers."""
    by_run: dict[str, list[LiveRow]] = {header.run: [] for header in headers}
    for row in rows:
        by_run.setdefault(row.run, []).append(row)
    every = [row for group in by_run.values() for row in group]
    grouped: dict[tuple[Any, ...], list[tuple[Run, Mapping[str, Any]]]] = {}
    for header, summary in zip(headers, live_report.summaries(headers, every), strict=True):
        if not summary["invalid"]:
            pair = Run(header, tuple(by_run[header.run])), summary
            grouped.setdefault(live_report.cell(summary), []).append(pair)
    several = len({key[:2] for key in grouped}) > 1
    return [_cell(key, pairs, several) for key, pairs in grouped.items()]


def _cell(
    key: tuple[Any, ...], pairs: Sequence[tuple[Run, Mapping[str, Any]]], several: bool
) -> Cell:
    runs: dict[str, list[Run]] = {}
    for run, summary in sorted(pairs, key=lambda pair: int(pair[0].header.repeat)):
        runs.setdefault(summary["label"], []).append(run)
    title = live_report.cell_title(pairs[0][0].header)
    if several:  # runs of more than one traffic lie here
        title = f"{key[0]}, {title}"
    return Cell(key, title, runs, [summary for _, summary in pairs])
