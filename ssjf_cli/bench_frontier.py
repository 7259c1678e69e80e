"""`ssjf bench frontier`: mean against tail for every policy, simulated, with plots.

Owns the options, the progress bar and the table. Registered by `bench`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import JsonOption, write_json
from ssjf_cli.bench_sim import LongestOption, read_rows


def frontier(
    json_file: JsonOption,
    arrivals: Annotated[list[Path], typer.Option(help="A trace; repeatable.")],
    lengths: Annotated[
        Path, typer.Option(help="Data file of prompts: the first sample of each row.")
    ],
    plots: Annotated[Path, typer.Option(help="Folder for the plots, made where missing.")],
    longest: LongestOption = None,
    batch: Annotated[list[int], typer.Option(min=1, help="Places; repeatable.")] = [16, 64],  # noqa: B006 (typer copies it)
    load: Annotated[list[float], typer.Option(help="Share of capacity; repeatable.")] = [0.8, 0.95],  # noqa: B006
    tau: Annotated[
        list[float], typer.Option(help="Kendall's tau-b of the predictions; repeatable.")
    ] = [0.60, 0.68],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs of everything, each another draw.")] = 1,
    jobs: Annotated[int | None, typer.Option(min=2, help="The first so many of a trace.")] = None,
) -> None:
    """Every policy at several settings on traces: mean, p99 and maximum against FCFS."""
    with extras():
        from ssjf_bench import frontier as bench
        from ssjf_bench import frontier_plots
        from ssjf_bench.trace import TraceError, read_trace
    check_output(json_file)
    rows = read_rows(lengths, longest)
    try:
        traces = {_name(path): read_trace(path) for path in arrivals}
        grid = bench.Grid(traces, rows or (), batch, load, tau, range(1, seeds + 1), jobs=jobs)
        found = list(track(bench.run(grid), "simulating", grid.runs, console=console))
    except (ValueError, TraceError) as error:
        fail(str(error))
    averages = bench.averages(found)
    plots.mkdir(parents=True, exist_ok=True)
    frontier_plots.draw(averages, plots)
    write_json(json_file, {"averages": averages, "results": found})
    stdout = Console()
    stdout.width = max(120, stdout.width)
    for key, cell in bench.cells(averages).items():
        stdout.print(_table(key, cell))


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


def _table(key: tuple[str, int, float, float], cell: Sequence[dict[str, Any]]) -> Table:
    from ssjf_bench.frontier import change_at

    name, batch, load, tau = key
    made = Table(title=f"{name}, batch {batch}, load {load:g}, τ-b {tau:g}", box=box.SIMPLE_HEAD)
    for column in (
        "policy",
        "mean",
        "p99",
        "max",
        "of oracle's gain",
        "violations",
        "against bounded-ssjf",
    ):
        made.add_column(column, justify="left" if column == "policy" else "right")
    for row in cell:
        there = change_at(cell, "bounded-ssjf", row["p99_jct_factor"])
        better = row["mean_jct_change"] - there if there is not None else None
        made.add_row(
            row["label"],
            f"{row['mean_jct_change']:+.1%}",
            f"{row['p99_jct_factor']:.2f} ×",
            f"{row['max_jct_factor']:.2f} ×",
            f"{row['share_of_oracle_gain']:.0%}",
            str(row["bound_violations"]),
            "" if better is None else f"{100 * better:+.1f}",
        )
    return made
