"""What the demo shows and writes: one table, a plot, a JSON file.

Knows records and figures; not how they were brought about.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Final

from rich import box
from rich.console import Console
from rich.table import Table

from ssjf_bench import plots, report
from ssjf_bench.replay import Record
from ssjf_bench.report import Summary

TITLE: Final = "Job completion time (JCT) and time to first token (TTFT), in seconds"
COLUMNS: Final = (
    *("JCT\nmean", "\np50", "\np99", "TTFT\nmean", "\np50", "\np99"),
    *("tokens\n/s", "\nτ-b", "priors\nused", "oracle's\ngain"),
)
MIN_WIDTH: Final = 80
# The order of the work alone, which decides how well the last batch is filled, gives some.
MAX_UNEVENNESS: Final = 1.15


@dataclass(frozen=True, slots=True)
class DemoSettings:
    """How much is replayed, and how."""

    prompts: int | None = None
    """First N of the shipped prompts; None takes all."""
    max_tokens: int = 256
    """Longest answer."""
    temperature: float = 0.7
    """Softmax temperature."""
    max_sequences: int = 8
    """Sequences that the engine runs at once."""
    load: float = 1.3
    """Rate of the Poisson stream, as a multiple of the measured capacity."""
    first_seed: int = 20261122
    """Seeds of the answers count up from it; it draws the arrivals, too."""
    warm_up_requests: int = 8
    """Requests before the first replay, not measured."""
    warm_up_tokens: int = 16
    """Their longest answer."""


@dataclass(slots=True)
class Results:
    """What the passes brought."""

    settings: DemoSettings
    """What was replayed."""
    capacity_per_s: float
    """Requests that the full engine finishes in a second, from the FCFS burst."""
    records: dict[tuple[str, str], list[Record]] = field(default_factory=dict)
    """By (arrivals, policy)."""

    @property
    def rate_per_s(self) -> float:
        """Requests per second of the Poisson stream."""
        return self.settings.load * self.capacity_per_s

    def summaries(self) -> list[Summary]:
        """One for each pass."""
        return [report.summarise(*key, records) for key, records in self.records.items()]

    def share_of_oracle_gain(self) -> float | None:
        """In the burst; None where the oracle gains nothing."""
        burst = {s.policy: s for s in self.summaries() if s.arrivals == "burst"}
        return report.share_of_oracle_gain(burst["fcfs"], burst["ssjf"], burst["oracle"])

    def differing_answers(self) -> list[str]:
        """Ids of requests whose answer is not the same text in all passes."""
        return report.differing_answers(*self.records.values())

    def failures(self) -> list[str]:
        """A line for each request that failed."""
        return [
            f"{arrivals}, {policy}: {line}"
            for (arrivals, policy), records in self.records.items()
            for line in report.failures(records)
        ]


def write(results: Results, out: Path) -> None:
    """Writes demo.json and demo.png under `out`."""
    passes = [report.to_json(s, results.records[s.arrivals, s.policy]) for s in results.summaries()]
    data = {
        "settings": asdict(results.settings),
        "capacity_requests_per_s": results.capacity_per_s,
        "poisson_requests_per_s": results.rate_per_s,
        "share_of_oracle_gain": results.share_of_oracle_gain(),
        "differing_answers": results.differing_answers(),
        "passes": passes,
    }
    (out / "demo.json").write_text(json.dumps(data, indent=1) + "\n", encoding="utf-8")
    if panels := _panels(results):
        plots.jct_cdfs(panels, out / "demo.png")


def _panels(results: Results) -> dict[str, dict[str, list[float]]]:
    titles = {
        "burst": "Burst: all at once",
        "poisson": f"Poisson stream at {results.settings.load:g} × capacity",
    }
    panels: dict[str, dict[str, list[float]]] = {}
    for (arrivals, policy), records in results.records.items():
        if times_s := [record.jct_s for record in records if record.jct_s is not None]:
            panels.setdefault(titles[arrivals], {})[policy] = times_s
    return panels


def show(results: Results, out: Path, console: Console) -> None:
    """Prints the table to stdout, and what belongs beside it to `console`."""
    stdout = Console()
    stdout.width = max(MIN_WIDTH, stdout.width)  # the table has no sense when it is cut
    stdout.print(table(results.summaries(), results.share_of_oracle_gain()))
    differing = results.differing_answers()
    for line in (
        f"capacity {results.capacity_per_s:.2f} requests/s: tokens/s of the FCFS burst while "
        "requests were waiting, over the mean answer",
        f"{len(differing)} of {len(results.records['burst', 'fcfs'])} answers differ in text "
        f"between policies (numeric ties) {', '.join(differing)}".rstrip(),
        f"plot {out / 'demo.png'}, figures {out / 'demo.json'}",
    ):
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if note := _uneven(results.summaries()):
        console.print(note, style="yellow", markup=False, highlight=False, soft_wrap=True)
    for line in results.failures():
        console.print(f"failed: {line}", style="red", markup=False, highlight=False)


def _uneven(summaries: Sequence[Summary]) -> str | None:
    """A warning where the bursts, which are the same work, did not run at the same speed."""
    speeds = [s.output_tokens_per_s for s in summaries if s.arrivals == "burst" and not s.failed]
    if not speeds or max(speeds) <= MAX_UNEVENNESS * min(speeds):
        return None
    return (
        f"The bursts ran at {min(speeds):.0f} to {max(speeds):.0f} tokens/s: something else kept "
        "this machine busy, and the times compare more than the policies."
    )


def table(summaries: Sequence[Summary], share: float | None) -> Table:
    """The one table; `share` is SSJF's of the oracle's gain, in the burst."""
    made = Table(title=TITLE, box=box.SIMPLE_HEAD, padding=0, show_edge=False)
    made.add_column("\narrivals", no_wrap=True)
    made.add_column("\npolicy", no_wrap=True)
    for name in COLUMNS:
        made.add_column(name, justify="right", no_wrap=True)
    following = [*(after.arrivals for _, after in pairwise(summaries)), None]
    for summary, next_arrivals in zip(summaries, following, strict=True):
        made.add_row(*_cells(summary, share), end_section=summary.arrivals != next_arrivals)
    return made


def _cells(summary: Summary, share: float | None) -> Iterator[str]:
    yield from (summary.arrivals, summary.policy)
    for spread in (summary.jct, summary.ttft):
        values = (spread.mean_s, spread.p50_s, spread.p99_s) if spread else (None,) * 3
        yield from (_seconds(value) for value in values)
    yield f"{summary.output_tokens_per_s:.0f}"
    yield _figure(summary.kendall_tau_b, ".2f")
    yield f"{summary.priors_used}/{summary.requests}"
    shares: Mapping[str, float | None] = {"fcfs": 0.0, "ssjf": share, "oracle": 1.0}
    yield _figure(shares[summary.policy], ".0%") if summary.arrivals == "burst" else ""


def _seconds(value: float | None) -> str:
    return _figure(value, ".2f" if value is not None and value < 10 else ".1f")


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)
