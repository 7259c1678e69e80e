"""`ssjf bench convert-trace | convert-predictions`: public files as benchmarks read them.

Owns the options. The forms are `ssjf_bench.convert_…`'s. Registered by `bench`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ssjf_cli.bench_failure import console, extras, fail


class TraceForm(StrEnum):
    """Published forms of traces."""

    azure_2023 = "azure-2023"
    mooncake = "mooncake"
    servegen = "servegen"


def convert_trace(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="As published; for servegen the folder of a model's clients.", metavar="FILE..."
        ),
    ],
    form: Annotated[TraceForm, typer.Option("--from", help="The form of the files.")],
    out: Annotated[Path, typer.Option(help=".csv or .csv.gz to write.")],
    requests: Annotated[
        int, typer.Option(min=2, help="servegen: how many requests are drawn.")
    ] = 200_000,
    start_s: Annotated[
        int, typer.Option(min=0, help="servegen: from which second of the published day.")
    ] = 72_000,
    seed: Annotated[int, typer.Option(min=0, help="servegen: of the draw.")] = 11,
) -> None:
    """Writes a trace (arrival_s, input_tokens, output_tokens) from its published form."""
    with extras():
        from ssjf_bench import convert_servegen, convert_traces
        from ssjf_bench.trace import TraceError
    if not out.parent.is_dir():
        fail(f"--out: there is no folder {out.parent}")
    try:
        if form is TraceForm.servegen:
            if len(files) > 1 or not files[0].is_dir():
                fail("servegen: one folder with chunk-N-trace.csv and chunk-N-dataset.json wanted")
            wanted = convert_servegen.Wanted(requests, start_s, seed)
            found = convert_servegen.sample(files[0], wanted)
        else:
            found = convert_traces.convert(form.value, files)
        convert_traces.write(found, out)
    except TraceError as error:
        fail(str(error))
    lasts_s = (found[-1].time_us - found[0].time_us) / 1e6
    console.print(f"{len(found)} requests in {lasts_s:,.0f} s: {out}", highlight=False)


def convert_predictions(
    files: Annotated[
        list[str],
        typer.Argument(
            help="Published predictions of one predictor each, named: binary=FILE.csv.",
            metavar="NAME=FILE...",
        ),
    ],
    out: Annotated[Path, typer.Option(help=".csv or .csv.gz to write.")],
) -> None:
    """Joins the SSJF paper's published predictions: lengths, and a class a predictor."""
    with extras():
        from ssjf_bench import convert_predictions as predictions
        from ssjf_bench.trace import TraceError
    named = dict(each.partition("=")[::2] for each in files)
    if not all(named) or not all(named.values()) or len(named) < len(files):
        fail("NAME=FILE wanted, each name once")
    if not out.parent.is_dir():
        fail(f"--out: there is no folder {out.parent}")
    try:
        rows = predictions.join({name: Path(path) for name, path in named.items()})
        predictions.write(list(named), rows, out)
    except TraceError as error:
        fail(str(error))
    console.print(f"{len(rows)} answers: {out}", highlight=False)
