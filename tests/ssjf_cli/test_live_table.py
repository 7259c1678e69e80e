from __future__ import annotations

from dataclasses import replace

from rich.console import Console

from ssjf_bench import live_report
from ssjf_bench.live_records import Run
from ssjf_cli import live_table
from tests.ssjf_bench.live_runs import simulated, split


def shown(*runs: Run) -> str:
    summaries = live_report.summaries(*split(runs))
    console = Console(width=80, no_color=True)
    with console.capture() as capture:
        live_table.show(summaries, live_report.spread(summaries), console)
    return capture.get()


def test_every_policy_of_a_cell_stands_in_its_table() -> None:
    runs = [simulated(policy, jobs=100) for policy in ("fcfs", "ssjf", "oracle")]
    found = shown(*runs, simulated("fcfs", jobs=100, max_batch=16))
    assert found.index("continuous, batch 8, load 0.9") < found.index("continuous, batch 16")
    (ssjf,) = [line for line in found.splitlines() if line.strip().startswith("ssjf")]
    change = live_report.summaries(*split(runs))[1]["mean_jct_change"]
    assert f"{change:+.1%}" in ssjf
    assert "…" not in ssjf  # nothing cut short


def test_how_far_repeats_reach_is_shown() -> None:
    runs = [simulated(name, jobs=100, repeat=n) for n in (1, 2) for name in ("fcfs", "ssjf")]
    (ssjf,) = [line for line in shown(*runs).splitlines() if line.strip().startswith("ssjf")]
    assert "…" in ssjf


def test_runs_that_do_not_count_are_named_with_their_reasons() -> None:
    run = simulated("fcfs", jobs=100)
    bad = Run(replace(run.header, invalid=["the client lagged", "3 failed"]), run.rows)
    found = shown(bad)
    assert "not counted: continuous-8-0.9-fcfs-1: the client lagged; 3 failed" in found
    assert "0 (−1)" in found


def test_runs_of_other_work_than_fcfs_are_named() -> None:
    fcfs, ssjf = (simulated(policy, jobs=100) for policy in ("fcfs", "ssjf"))
    assert "not the same work" not in shown(fcfs, ssjf)
    longer = [replace(row, output_tokens=2 * row.output_tokens) for row in ssjf.rows]
    found = shown(fcfs, Run(ssjf.header, longer))
    assert "ssjf-1: +100.0% output tokens against fcfs's run: not the same work" in found


def test_runs_without_predictions_are_named() -> None:
    run = simulated("ssjf", jobs=100)
    rows = [replace(row, predicted_by_model=number % 2 == 0) for number, row in enumerate(run.rows)]
    found = shown(Run(run.header, tuple(rows)))
    assert "continuous-8-0.9-ssjf-1: " in found
    assert "45 of 90 requests were queued under the prior" in found
    assert "queued under the prior" not in shown(run)
