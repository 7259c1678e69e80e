"""Policies that were not run live, simulated on the jobs of a cell's live fcfs runs.

The engine is the one that `live_against_sim` fits, and so is the way to simulate; what is
compared is simulated on both sides. Called by `ssjf bench against-sim --what-if`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from ssjf_bench import live_against_sim, live_report
from ssjf_bench.live_against_sim import Comparison
from ssjf_bench.live_plan import Choice
from ssjf_bench.live_records import Run
from ssjf_bench.step_fit import Fit

Row = dict[str, Any]

KEPT: Final = (
    *("policy", "label", *live_report.CELL, "repeat", "jobs"),
    *("mean_jct_s", "p50_jct_s", "p99_jct_s", "max_jct_s", "p50_ttft_s", "window_s"),
    *("throughput_tokens_s", *live_report.COMPARED),
)
"""What a row has of a run's summary."""


def simulated(compared: Comparison, choices: Sequence[Choice]) -> list[Row]:
    """A row for each fcfs run that was compared and each policy, against fcfs as simulated, too.

    Jobs, arrivals and predictions are those of the live fcfs run; `oracle` is told the lengths
    of its answers, and stands for the others' share of its gain where it is among them.
    """
    fcfs = {run.header.run: run for run in compared.simulated}
    return [
        row
        for cell, fit in compared.engines
        for run in cell.runs["fcfs"]
        for row in _rows(run, fcfs[run.header.run], fit, choices)
    ]


def _rows(run: Run, fcfs: Run, fit: Fit, choices: Sequence[Choice]) -> list[Row]:
    supposed = [live_against_sim.as_simulated(_under(choice, run), fit) for choice in choices]
    again = [fcfs, *supposed]
    found = live_report.summaries(
        [each.header for each in again], [row for each in again for row in each.rows]
    )
    return [{name: each[name] for name in KEPT} for each in found[1:]]


def _under(choice: Choice, run: Run) -> Run:
    """The run as if this policy had been asked for."""
    name = f"{run.header.run} under {choice.label}"
    header = replace(run.header, run=name, policy=choice.policy, options=dict(choice.options))
    return Run(header, [replace(row, run=name, policy=choice.policy) for row in run.rows])
