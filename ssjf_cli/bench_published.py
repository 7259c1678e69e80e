"""`ssjf bench as-published`: the SSJF paper's own comparison, and what makes it up.

Owns the options, the progress bar and the tables. Registered by `bench`.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table

from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import JsonOption, write_json
from ssjf_cli.bench_sim import DEFAULT_TAU, read_rows

if TYPE_CHECKING:
    from ssjf_bench.as_published_report import Grid
    from ssjf_bench.as_published_run import Answers

QUICK_RUNS = 1
QUICK_STEADY_JOBS = 100


def as_published(
    json_file: JsonOption,
    lengths: Annotated[
        Path,
        typer.Option(
            help="CSV (.gz) with output_tokens and a pred_… column a predictor, or a data file."
        ),
    ],
    plots: Annotated[Path, typer.Option(help="Folder for the plots, made where missing.")],
    arrivals: Annotated[
        list[Path] | None, typer.Option(help="A trace, beside poisson and gamma; repeatable.")
    ] = None,
    training: Annotated[
        list[Path] | None,
        typer.Option(help="Result of a predictor's training: noise of its tau-b; repeatable."),
    ] = None,
    ablated: Annotated[
        str, typer.Option(help="Predictor whose gains are taken apart; the last of --lengths.")
    ] = "",
    batch: Annotated[list[int], typer.Option(min=2, help="Places; repeatable.")] = [2, 6, 10],  # noqa: B006 (typer copies it)
    seeds: Annotated[int, typer.Option(min=1, help="Repetitions of everything.")] = 3,
    runs: Annotated[int, typer.Option(min=1, help="Bursts at each value of a kind.")] = 10,
    processes: Annotated[
        int | None, typer.Option(min=1, help="As many as there are cores by default.")
    ] = None,
    quick: Annotated[
        bool, typer.Option(help="One seed, one burst at each value, batch 2: seconds.")
    ] = False,
) -> None:
    """The SSJF paper's simulation on its own terms, and each of its artefacts taken away."""
    with extras():
        from ssjf_bench import as_published_plots
        from ssjf_bench import as_published_report as report
        from ssjf_bench.as_published import PAPER_JCT_CHANGES, PAPER_THROUGHPUT_FACTORS, Rules
        from ssjf_bench.as_published_data import PublishedDataError
        from ssjf_bench.trace import TraceError
    check_output(json_file)
    try:
        answers = _answers(lengths, training or ())
        names = [each.name for each in answers.predictors]
        if ablated not in ("", *names):
            fail(f"--ablated {ablated!r}: there are {', '.join(names)}")
        grid = _grid(answers, arrivals or (), batch, seeds, runs, ablated, quick=quick)
        workers = 1 if quick else processes or len(os.sched_getaffinity(0))
        found = list(track(report.run(grid, workers), "simulating", grid.units, console=console))
    except (ValueError, TraceError, PublishedDataError, BrokenProcessPool) as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    published, taken_apart = report.rows(grid, found)
    results: dict[str, Any] = {
        "paper": {
            "mean_jct_changes": PAPER_JCT_CHANGES,
            "throughput_factors": PAPER_THROUGHPUT_FACTORS,
        },
        "rules": asdict(Rules()) | {"starvation": Rules().starvation.value},
        "runs": grid.runs,
        "steady": {"jobs": grid.steady_jobs, "load": grid.steady_load},
        "predictors": [
            {"name": each.name, "tau_b": each.tau_b, "origin": each.origin}
            for each in answers.predictors
        ],
        "capacities": report.capacities(grid),
        "published": published,
        "taken_apart": taken_apart,
    }
    plots.mkdir(parents=True, exist_ok=True)
    as_published_plots.draw(published, taken_apart, plots)
    write_json(json_file, results)
    stdout = Console()
    stdout.width = max(140, stdout.width)
    for kind in grid.kinds:
        stdout.print(published_table(kind.name, published))
        stdout.print(artefacts_table(kind.name, taken_apart))


def _answers(lengths: Path, trainings: Sequence[Path]) -> Answers:
    import numpy as np

    from ssjf_bench import as_published_data as data
    from ssjf_bench.as_published_run import Answers

    if ".csv" in lengths.suffixes:
        actual, said = data.read_lengths(lengths)
    else:
        rows = read_rows(lengths, None) or ()
        actual, said = np.array([row.output_tokens for row in rows]), {}
    predictors = [data.published(name, each, actual) for name, each in said.items()]
    for seed, (name, tau_b) in enumerate(map(data.read_training, trainings), start=1):
        predictors.append(data.from_tau(name, tau_b, actual, seed))
    if not predictors:
        predictors.append(data.from_tau(f"noise {DEFAULT_TAU:g}", DEFAULT_TAU, actual, seed=1))
    return Answers(actual, predictors)


def _grid(
    answers: Answers,
    traces: Sequence[Path],
    batches: Sequence[int],
    seeds: int,
    runs: int,
    ablated: str,
    *,
    quick: bool,
) -> Grid:
    from ssjf_bench.as_published import PAPER_BATCH
    from ssjf_bench.as_published_arrivals import Gamma, Kind, Poisson, Replayed
    from ssjf_bench.as_published_data import PUBLISHED
    from ssjf_bench.as_published_report import Grid
    from ssjf_bench.trace import read_trace

    replayed = [Replayed(_name(each), read_trace(each)) for each in traces]
    kinds: list[Kind] = [Poisson(), Gamma(), *replayed]
    real = [each.name for each in answers.predictors if each.origin == PUBLISHED]
    chosen = ablated or (real or [answers.predictors[0].name])[-1]
    if not quick:
        return Grid(answers, kinds, batches, range(1, seeds + 1), runs, chosen, batches[:2])
    return Grid(
        answers,
        kinds,
        batches=(PAPER_BATCH,),
        seeds=(1,),
        runs=QUICK_RUNS,
        ablated=chosen,
        ablated_batches=(PAPER_BATCH,),
        steady_jobs=QUICK_STEADY_JOBS,
    )


def _name(path: Path) -> str:
    return path.name.removesuffix(".gz").removesuffix(".csv")


def published_table(kind: str, rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each predictor, a column for each mode and batch."""
    here = [row for row in rows if row["arrivals"] == kind]
    columns = list(dict.fromkeys((row["mode"], row["batch"]) for row in here))
    made = Table(title=f"{kind}, as published: mean JCT, “throughput”", box=box.SIMPLE_HEAD)
    made.add_column("predictor")
    for mode, places in columns:
        made.add_column(mode if mode == "none" else f"{mode} {places}", justify="right")
    for predictor in dict.fromkeys(row["predictor"] for row in here):
        made.add_row(predictor, *(_cell(row) for row in here if row["predictor"] == predictor))
    return made


def artefacts_table(kind: str, rows: Sequence[dict[str, Any]]) -> Table:
    """A line for each artefact, in turn; a column for each mode and batch."""
    here = [
        row
        for row in rows
        if row["arrivals"] == kind and row["predictor"] != "oracle" and not row.get("alone")
    ]
    columns = list(dict.fromkeys((row["mode"], row["batch"]) for row in here))
    made = Table(title=f"{kind}, one artefact less in each line", box=box.SIMPLE_HEAD)
    made.add_column(f"without ({here[0]['predictor']})")
    for mode, places in columns:
        made.add_column(mode if mode == "none" else f"{mode} {places}", justify="right")
    for name in dict.fromkeys(row.get("removed", "") for row in here):
        cells = (_cell(row) for row in here if row.get("removed", "") == name)
        made.add_row(name or "– (as published)", *cells)
    return made


def _cell(row: dict[str, Any]) -> str:
    return f"{row['mean_jct_change']:+.1%} {row['throughput_factor']:.2f}×"
