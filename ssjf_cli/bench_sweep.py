"""`ssjf bench sweep`: every policy over arrivals, batching, loads and seeds, simulated.

Owns the options, the progress bar and the tables. What is run is `ssjf_bench.sweep`'s.
Registered by `bench`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import JsonOption, write_json
from ssjf_cli.bench_sim import LongestOption, predict, read_rows

if TYPE_CHECKING:
    from ssjf_bench.arrivals import Arrivals
    from ssjf_bench.cell import Source
    from ssjf_bench.lengths import Answered
    from ssjf_bench.sweep import Sweep


def sweep(
    json_file: JsonOption,
    arrivals: Annotated[
        list[str], typer.Option(help="poisson, gamma:CV or a trace (CSV); repeatable.")
    ],
    lengths: Annotated[
        Path | None, typer.Option(help="Data file of prompts: the first sample of each row.")
    ] = None,
    own_lengths: Annotated[
        bool, typer.Option("--own-lengths", help="The traces' own lengths, in place of --lengths.")
    ] = False,
    longest: LongestOption = None,
    llm: Annotated[str, typer.Option(help="Only rows of --lengths that this LLM answered.")] = "",
    split: Annotated[
        str, typer.Option(help="Only rows of --lengths with this in their `split` column.")
    ] = "",
    predictor: Annotated[
        Path | None,
        typer.Option(help="Exported model whose predictions are used, too, beside noise."),
    ] = None,
    batch: Annotated[
        list[int], typer.Option(min=1, help="Places, continuous batching; 1 is none; repeatable.")
    ] = [1, 4, 16, 64, 256],  # noqa: B006 (typer copies it)
    dynamic: Annotated[
        list[int], typer.Option(min=2, help="Places, dynamic batching; repeatable.")
    ] = [16],  # noqa: B006
    load: Annotated[
        list[float], typer.Option(help="Share of what fcfs can finish; repeatable.")
    ] = [0.5, 0.7, 0.8, 0.9, 1.0, 1.2],  # noqa: B006
    tau: Annotated[
        list[float], typer.Option(help="Kendall's tau-b of noisy predictions; repeatable.")
    ] = [0.60, 0.68],  # noqa: B006
    seeds: Annotated[int, typer.Option(min=1, help="Runs of everything, each another draw.")] = 3,
    jobs: Annotated[int, typer.Option(min=2, help="Of each arrivals, the first so many.")] = 6000,
    plots: Annotated[
        Path | None, typer.Option(help="Folder for plots, made where missing; none by default.")
    ] = None,
    panel: Annotated[
        list[str] | None, typer.Option(help="Arrivals that plots show; all by default; repeatable.")
    ] = None,
    workers: Annotated[
        int | None, typer.Option(min=1, help="Processes; one a core by default.")
    ] = None,
) -> None:
    """Every policy at its default setting beside fcfs and the oracle: where it gains, and what."""
    with extras():
        from ssjf_bench import sim_run
        from ssjf_bench import sweep as bench
    check_output(json_file)
    if own_lengths == (lengths is not None) or (own_lengths and predictor):
        fail("one of --lengths (which --predictor needs) and --own-lengths is wanted")
    try:
        shapes = _shapes(arrivals)
        shown = _shown(shapes, panel)
        rows, sources = _told(read_rows(lengths, longest, llm=llm, split=split), predictor, tau)
        grid = bench.Sweep(
            shapes,
            rows,
            bench.batchings(batch, dynamic),
            load,
            sources,
            range(1, seeds + 1),
            jobs=jobs,
        )
        used = workers or len(os.sched_getaffinity(0))
        begin_s = time.monotonic()
        cells = track(bench.run(grid, used), "simulating", len(grid.places), console=console)
        done = list(cells)
    except (*sim_run.FAILURES, BrokenProcessPool) as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    averages = bench.averages([row for cell in done for row in cell.rows])
    took = {
        "simulations": len(grid.places) * grid.runs_a_cell,
        "wall_s": round(time.monotonic() - begin_s, 1),
        "cpu_s": round(sum(cell.cpu_s for cell in done), 1),
        "workers": used,
    }
    write_json(json_file, grid.described() | took | {"averages": averages})
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        _draw(grid, averages, plots, shown)
    stdout = Console()
    stdout.width = max(140, stdout.width)
    for source in grid.sources:
        stdout.print(_table(averages, source.label, _busy(grid)))


def _shapes(arrivals: Sequence[str]) -> Mapping[str, Arrivals]:
    from ssjf_bench import arrivals as shapes

    named = {Path(each).name.removesuffix(".gz").removesuffix(".csv"): each for each in arrivals}
    if len(named) < len(arrivals):
        raise ValueError("--arrivals: two have the same name")
    return {name: shapes.parse(each) for name, each in named.items()}


def _shown(shapes: Mapping[str, Arrivals], panel: Sequence[str] | None) -> Sequence[str]:
    unknown = [name for name in panel or () if name not in shapes]
    if unknown:
        raise ValueError(f"--panel {unknown[0]!r}: none of {', '.join(shapes)}")
    return panel or list(shapes)


def _told(
    rows: Sequence[Answered] | None, predictor: Path | None, taus: Sequence[float]
) -> tuple[Sequence[Answered] | None, list[Source]]:
    """The rows to draw from, and what the policies are told of them."""
    from ssjf_bench.cell import Noise, Trained

    noise: list[Source] = [Noise(tau) for tau in taus]
    if rows is None:
        return None, noise
    if predictor is not None:
        return rows, [*noise, Trained.of(rows, predict(predictor, rows))]
    # Every process gets the rows; without their texts that is quick.
    return [replace(row, prompt="", turns=()) for row in rows], noise


def _draw(
    grid: Sweep, averages: Sequence[dict[str, Any]], plots: Path, shown: Sequence[str]
) -> None:
    """Plots are of the first source of predictions."""
    from ssjf_bench import sweep_plots
    from ssjf_bench.arrivals import Renewal

    source = grid.sources[0].label
    sweep_plots.draw(averages, plots, source, shown)
    cvs = {name: each.cv for name, each in grid.arrivals.items() if isinstance(each, Renewal)}
    if len(cvs) > 1:
        sweep_plots.draw_burstiness(averages, cvs, plots, source, _busy(grid))


def _busy(grid: Sweep) -> float:
    """The highest load that the engine can carry."""
    return max((each for each in grid.loads if each < 1), default=min(grid.loads))


def _table(averages: Sequence[dict[str, Any]], source: str, load: float) -> Table:
    """Mean and p99 against fcfs at one load: a line for arrivals and batching."""
    from ssjf_bench.sweep_plots import described

    rows = [
        row
        for row in averages
        if row["load"] == load and row["predictions"] in (source, None) and row["policy"] != "fcfs"
    ]
    policies = list(dict.fromkeys(row["policy"] for row in rows))
    title = f"Mean completion time against fcfs / p99, load {load:g}, {described(source)}"
    made = Table(title=title, box=box.SIMPLE_HEAD)
    for column in ("arrivals", "batching", *policies):
        side: Literal["left", "right"] = "right" if column in policies else "left"
        made.add_column(column, justify=side, no_wrap=True)
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for row in rows:
        figures = f"{row['mean_jct_change']:+.0%} / {row['p99_jct_factor']:.2f} ×"
        key = (row["arrivals"], f"{row['mode']} {row['batch']}")
        lines.setdefault(key, {})[row["policy"]] = figures
    for (name, batching), found in lines.items():
        made.add_row(name, batching, *(found.get(each, "") for each in policies))
    return made
