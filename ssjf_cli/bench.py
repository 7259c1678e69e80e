"""`ssjf bench …`: what the services do on this machine, in figures.

Owns the options and the tables. What is measured is `ssjf_bench`'s; imported when a
command runs.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ssjf_cli import (
    bench_against_sim,
    bench_convert,
    bench_engine,
    bench_frontier,
    bench_gateway,
    bench_live,
    bench_published,
    bench_scheduler,
    bench_sim,
    bench_sweep,
)
from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import JsonOption, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

app = typer.Typer(no_args_is_help=True)
app.command()(bench_sim.sim)
app.command()(bench_engine.engine)
app.command()(bench_scheduler.scheduler)
app.command()(bench_frontier.frontier)
app.command()(bench_published.as_published)
app.command()(bench_sweep.sweep)
app.command()(bench_convert.convert_trace)
app.command()(bench_convert.convert_predictions)
app.command()(bench_gateway.gateway)
app.command("against-sim")(bench_against_sim.against_sim)
app.command()(bench_live.live)
MIN_WIDTH = 128


class ProviderName(StrEnum):
    """Where the predictor runs."""

    auto = "auto"
    cpu = "cpu"
    cuda = "cuda"


@app.callback()
def bench() -> None:
    """Measures this machine; every result says how to get it again."""


@app.command()
def predictor(
    json_file: JsonOption,
    model_dir: Annotated[
        Path | None, typer.Option(help="Exported model; by default the one of this environment.")
    ] = None,
    weights: Annotated[
        Path | None, typer.Option(help="The weights it was exported from; those shipped.")
    ] = None,
    provider: Annotated[
        ProviderName, typer.Option(help="Fails where the predictor runs on another one.")
    ] = ProviderName.auto,
    address: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of a predictor that runs already; several IP:PORT by commas."),
    ] = None,
    predictors: Annotated[
        int, typer.Option(min=1, help="Processes to start; calls go to them in turn.")
    ] = 1,
    seconds: Annotated[float, typer.Option(min=0.2, help="For each row.")] = 5.0,
    clients: Annotated[
        int | None, typer.Option(min=1, help="Client processes; by default half of the cores.")
    ] = None,
) -> None:
    """Latency and throughput of `Predict` beside bare ONNX Runtime and eager PyTorch."""
    from ssjf_cli.process import StackError

    with extras():
        from ssjf_cli import predictor_bench
    check_output(json_file)
    options = predictor_bench.BenchOptions(
        model_dir=model_dir,
        weights=weights,
        provider=provider.value,
        address=address,
        predictors=predictors,
        seconds=seconds,
        clients=clients,
    )
    try:
        with console.status("") as status:
            results = predictor_bench.measure(options, status.update)
    except (StackError, *predictor_bench.FAILURES) as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    write_json(json_file, results)
    stdout = Console()
    stdout.width = max(MIN_WIDTH, stdout.width)
    stdout.print(predictor_table(results))
    for line in results["left_out"]:
        console.print(f"left out: {line}", style="yellow", markup=False)


def predictor_table(results: Mapping[str, Any]) -> Table:
    """A line for each case."""
    title = f"{results['provider']}, {results['precision']}, {results['prompt_tokens']} tokens"
    made = Table(title=f"Prompts of {title}, times in ms", box=box.SIMPLE_HEAD, padding=(0, 1))
    made.add_column("\ncase", no_wrap=True)
    for name in (
        *("prompts\na call", "calls in\nflight", "\np50", "\np90", "\np99", "\nmean"),
        *("\nprompts/s", "busiest\nclient", "server\ncores"),
    ):
        made.add_column(name, justify="right", no_wrap=True)
    for row in results["results"]:
        made.add_row(*_cells(row))
    return made


def _cells(row: Mapping[str, Any]) -> Sequence[str]:
    times = [
        f"{row[name]:,.{1 if row[name] > 100 else 2}f}"
        for name in ("p50_ms", "p90_ms", "p99_ms", "mean_ms")
    ]
    cores = row.get("client_cores")
    server = row.get("server_cores")
    return (
        row["case"],
        str(row["prompts_a_call"]),
        str(row["concurrency"]),
        *times,
        f"{row['prompts_per_s']:,.0f}",
        f"{max(cores):.0%}" if cores else "",
        f"{server:.1f}" if server is not None else "",
    )
