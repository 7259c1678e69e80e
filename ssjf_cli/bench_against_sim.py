"""`ssjf bench against-sim`: the simulator on what `ssjf bench live` recorded, side by side.

Owns the options and the tables. What is fitted and simulated is `ssjf_bench`'s; imported
when the command runs. Registered by `bench`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import JsonOption, write_json
from ssjf_cli.live_table import other_work

if TYPE_CHECKING:
    from ssjf_bench.live_against_sim import Comparison
    from ssjf_bench.live_cells import Cell

MIN_WIDTH = 136


def against_sim(
    json_file: JsonOption,
    records: Annotated[
        Path, typer.Option(help="Folder of raw records that `ssjf bench live` wrote.")
    ],
    plots: Annotated[
        Path | None, typer.Option(help="Folder for the plot, made where missing.")
    ] = None,
    what_if: Annotated[
        list[str] | None,
        typer.Option(
            help="A policy that was not run live, to simulate on the fcfs runs' jobs: NAME or "
            "NAME:OPTION=VALUE,…; may be repeated."
        ),
    ] = None,
) -> None:
    """The simulator fitted to live fcfs runs, and what it says of every policy's live runs."""
    with extras():
        from ssjf_bench import live_against_sim, live_cells, live_plots, live_report, live_what_if
        from ssjf_bench.live_plan import parse_choice
        from ssjf_bench.live_records import SUFFIX, RecordsError, read_folder
        from ssjf_bench.sim_run import FAILURES
    check_output(json_file)
    try:
        choices = [parse_choice(text) for text in what_if or ()]
        runs = read_folder(records)
        cells = live_cells.cells(
            [run.header for run in runs], [row for run in runs for row in run.rows]
        )
        if not cells:
            fail(f"--records: no valid run in {records}")
        found = _compare(cells)
        supposed = live_what_if.simulated(found, choices)
    except (*FAILURES, RecordsError) as error:
        fail(str(error))
    if plots is not None:
        again = [run.header for run in found.simulated]
        rows = [row for run in found.simulated for row in run.rows]
        live_plots.draw_against(cells, live_cells.cells(again, rows), plots)
    averages = live_against_sim.averages(found.rows)
    results = {
        "fits": found.fits,
        "averages": averages,
        "results": found.rows,
        "what_if": supposed,
        "left_out": found.left_out,
        "records": live_report.checksums(sorted(records.glob(f"[!.]*{SUFFIX}"))),
    }
    write_json(json_file, results)
    _show(found, averages, supposed)


def _compare(cells: Sequence[Cell]) -> Comparison:
    from ssjf_bench import live_against_sim

    with Progress(console=console) as bar:
        runs = sum(len(each) for cell in cells for each in cell.runs.values())
        task = bar.add_task("simulating", total=runs)
        return live_against_sim.compare(cells, lambda _run: bar.advance(task))


def _show(
    found: Comparison, averages: Sequence[dict[str, Any]], supposed: Sequence[dict[str, Any]]
) -> None:
    from ssjf_bench import live_report

    stdout = Console()
    stdout.width = max(MIN_WIDTH, stdout.width)
    for fit in found.fits:
        mine = [row for row in averages if live_report.cell(row) == live_report.cell(fit)]
        stdout.print(_table(live_report.cell_title(fit), mine))
        stdout.print(_fitted(fit), markup=False)
        for row in mine:
            _note_other_answers(row, stdout)
    for line in found.left_out:
        console.print(f"left out: {line}", style="yellow", markup=False)
    if supposed:
        stdout.print(_what_if_table(supposed))


def _table(title: str, rows: Sequence[dict[str, Any]]) -> Table:
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    made.add_column("\npolicy", no_wrap=True)
    for column in (
        *("\nruns", "mean s\nlive", "\nsimulated", "\n", "p99 s\nlive", "\nsimulated", "\n"),
        *("against fcfs\nlive", "\nsimulated", "\npoints", "\nengine", "\nbeyond"),
    ):
        made.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        cells = [row["label"], str(row["runs"])]
        for name in ("mean_jct", "p99_jct"):
            cells += [f"{row[f'{side}_{name}_s']:,.2f}" for side in ("live", "simulated")]
            cells.append(f"{row[f'{name}_difference']:+.1%}")
        changes = row["live_mean_jct_change"], row["simulated_mean_jct_change"]
        cells += [f"{change:+.1%}" for change in changes if change is not None] or ["", ""]
        points = row["mean_jct_change_points"]
        cells.append("" if points is None else f"{points:+.1f}")
        made.add_row(*cells, f"{row['drift']:+.1%}", "yes" if row["beyond"] else "")
    made.caption = "engine: how much slower it was than where the simulator's was fitted"
    return made


def _note_other_answers(row: dict[str, Any], stdout: Console) -> None:
    if more := other_work(row):
        stdout.print(
            f"{row['label']}: answers of {more} tokens; against fcfs simulated on them: mean "
            f"{row['mean_jct_change_on_its_answers']:+.1%}, p99 "
            f"{row['p99_jct_factor_on_its_answers']:.2f} ×",
            style="yellow",
            markup=False,
        )


def _what_if_table(rows: Sequence[dict[str, Any]]) -> Table:
    from ssjf_bench import live_report

    made = Table(title="not run live: simulated against simulated fcfs", box=box.SIMPLE_HEAD)
    for column in ("cell", "policy"):
        made.add_column(column, no_wrap=True)
    for column in ("mean s", "to fcfs", "oracle's gain", "p99 s", "to fcfs", "throughput"):
        made.add_column(column, justify="right", no_wrap=True)
    for row in rows:
        share = row["share_of_oracle_gain"]
        made.add_row(
            *(live_report.cell_title(row), row["label"], f"{row['mean_jct_s']:,.2f}"),
            *(f"{row['mean_jct_change']:+.1%}", "" if share is None else f"{share:.0%}"),
            *(f"{row['p99_jct_s']:,.2f}", f"{row['p99_jct_factor']:.2f} ×"),
            f"{row['throughput_factor']:.2f} ×",
        )
    return made


def _fitted(fit: dict[str, Any]) -> str:
    """The engine in one line."""
    return (
        f"step {fit['base_ms']:.2f} ms + {fit['per_sequence_ms']:.3f} ms · batch + "
        f"{fit['per_doubling_ms']:.3f} ms · log2 batch, prompts {fit['prefill_ms']:.1f} ms + "
        f"{fit['prefill_token_ms']:.4f} ms a token (error "
        f"{fit['relative_error']:.1%} of {fit['answers']:,} answers); handover "
        f"{fit['busy_steps']:.1f} steps, {fit['idle_ms']:.1f} ms idle; admission "
        f"{fit['admission_ms']:.1f} ms"
    )
