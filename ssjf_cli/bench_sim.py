"""`ssjf bench sim`: the live scheduling core in virtual time.

Owns the options and what is printed. What is simulated is `ssjf_bench`'s; imported when a
command runs. Registered by `bench`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import JsonOption, write_json

if TYPE_CHECKING:
    from ssjf_bench.lengths import Answered
    from ssjf_bench.sim_predictions import Predictions

DEFAULT_TAU = 0.6


class ModeName(StrEnum):
    """Batching modes of the SSJF paper."""

    none = "none"
    dynamic = "dynamic"
    continuous = "continuous"


ArrivalsOption = Annotated[
    str, typer.Option(help="poisson, gamma:CV, or a CSV (.gz) with arrival_s and lengths.")
]
LengthsOption = Annotated[
    Path | None,
    typer.Option(help="Data file of prompts: the first sample of each row; else the trace's own."),
]
LongestOption = Annotated[
    int | None, typer.Option(min=1, help="Leaves out rows of --lengths with a longer answer.")
]
PredictorOption = Annotated[
    Path | None, typer.Option(help="Exported model that predicts the prompts of --lengths.")
]
SeedOption = Annotated[int, typer.Option(help="Of prompts, arrivals and noise.")]


def sim(
    json_file: JsonOption,
    arrivals: ArrivalsOption = "poisson",
    lengths: LengthsOption = None,
    longest: LongestOption = None,
    predictor: PredictorOption = None,
    noise_tau: Annotated[
        float | None,
        typer.Option(help=f"Kendall's tau-b of noisy predictions; {DEFAULT_TAU} by default."),
    ] = None,
    noise_sigma: Annotated[
        float | None, typer.Option(min=0.0, help="Log-normal noise, in place of --noise-tau.")
    ] = None,
    policy: Annotated[str, typer.Option(help="Name of the policy.")] = "default",
    alpha: Annotated[
        float | None, typer.Option(min=1.0, help="Bound on being overtaken; else the policy's.")
    ] = None,
    tail: Annotated[
        float | None, typer.Option(min=1.0, help="tail-ssjf: what to aim at, in FCFS's p99.")
    ] = None,
    tail_longest: Annotated[
        float | None, typer.Option(min=1.0, help="tail-ssjf: factor for the longest 0.8 %.")
    ] = None,
    hrrn_on_predictions: Annotated[
        bool, typer.Option(help="hrrn: by predicted lengths, not by what is known.")
    ] = False,
    mode: Annotated[ModeName, typer.Option(help="Batching.")] = ModeName.continuous,
    max_batch: Annotated[int, typer.Option(min=1, help="Places of the engine.")] = 16,
    max_wait_ms: Annotated[
        float, typer.Option(min=0.0, help="Dynamic batching: longest wait for company.")
    ] = 50.0,
    load: Annotated[float, typer.Option(help="Offered requests as a share of capacity.")] = 0.8,
    jobs: Annotated[
        int | None, typer.Option(min=2, help="The first so many; the whole trace, or 10,000.")
    ] = None,
    seed: SeedOption = 1,
    input_lengths: Annotated[
        bool, typer.Option(help="Prompts as long as the trace says, for prefill and KV.")
    ] = False,
    max_tokens: Annotated[
        int | None, typer.Option(min=1, help="Every request's limit; else the longest answer.")
    ] = None,
    step_base_ms: Annotated[float, typer.Option(min=0.0, help="A decode step.")] = 6.5,
    step_sequence_ms: Annotated[
        float, typer.Option(min=0.0, help="What each running sequence adds to it.")
    ] = 0.068,
    prefill_token_ms: Annotated[
        float, typer.Option(min=0.0, help="What each prompt token adds to its first step.")
    ] = 0.0,
    kv_tokens: Annotated[
        int | None, typer.Option(min=2, help="KV tokens of the engine; unlimited by default.")
    ] = None,
) -> None:
    """One policy on one traffic: completion times, waits, throughput, violations of the bound."""
    with extras():
        from ssjf_bench import arrivals as shapes
        from ssjf_bench import sim_run
        from ssjf_bench.step_time import StepTime
    check_output(json_file)
    rows = read_rows(lengths, longest)
    try:
        traffic = sim_run.Traffic(
            shapes.parse(arrivals), rows, jobs, seed, input_lengths, max_tokens
        )
        answered = traffic.answered()
        setup = sim_run.set_up(
            policy,
            mode=mode.value,
            max_batch=max_batch,
            max_wait_ms=max_wait_ms,
            step_time=StepTime(step_base_ms, step_sequence_ms, prefill_token_ms),
            kv_tokens=kv_tokens,
            alpha=alpha,
            tail=tail,
            tail_longest=tail_longest,
            hrrn_on_predictions=hrrn_on_predictions,
        )
        offered = sim_run.offer(traffic, answered, load, setup.batching.places, setup.step_time)
        if predictor is not None:
            predictions = predict(predictor, answered)
        else:
            tau = DEFAULT_TAU if noise_tau is None else noise_tau
            predictions = sim_run.noise(answered, seed, sigma=noise_sigma, tau=tau)
        results = sim_run.figures(offered, predictions, setup)
    except sim_run.FAILURES as error:
        fail(str(error))
    write_json(json_file, {"arrivals": arrivals, "seed": seed} | results)
    Console().print(_table(results))


def read_rows(
    path: Path | None, longest: int | None, *, llm: str = "", split: str = ""
) -> Sequence[Answered] | None:
    """The rows to draw from, of one LLM and part of the data set or of all; None without a file."""
    if path is None:
        return None
    from ssjf_cli import predictor_offline

    try:
        with console.status(f"reading {path.name}"):
            return predictor_offline.read_answered(path, longest, llm=llm, split=split)
    except predictor_offline.FAILURES as error:
        fail(str(error))


def predict(folder: Path, answered: Sequence[Answered]) -> Predictions:
    """What the exported model says of the requests' prompts."""
    from ssjf_cli import predictor_offline

    if not all(row.prompt or row.turns for row in answered):
        fail("--predictor needs prompts: --lengths")
    try:
        with console.status("predicting") as status:
            return predictor_offline.predict(folder, answered, "auto", status.update)
    except predictor_offline.FAILURES as error:
        fail(str(error))


def _table(results: Mapping[str, Any]) -> Table:
    title = f"{results['policy']}, {results['mode']}, batch {results['max_batch']}"
    made = Table(title=f"{title}, load {results['load']:g}", box=box.SIMPLE_HEAD, show_header=False)
    made.add_column()
    made.add_column(justify="right")
    for name, value in results.items():
        if isinstance(value, int | float) and name not in ("max_batch", "load"):
            made.add_row(name, f"{value:,}" if isinstance(value, int) else f"{value:,.3f}")
    return made
