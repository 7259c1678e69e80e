"""`ssjf bench engine`: tokens a second of the engine.

Owns the command's options and its table; what is measured is `engine_bench`'s, imported
when the command runs. Registered by `bench`.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import JsonOption, write_json

if TYPE_CHECKING:
    from collections.abc import Mapping


class ShapeName(StrEnum):
    """Shapes of models."""

    smollm2 = "smollm2-135m"
    llama = "llama-3.1-8b"


class DeviceName(StrEnum):
    """Where the engine runs."""

    cpu = "cpu"
    cuda = "cuda"


class DtypeName(StrEnum):
    """Types of weights and KV cache."""

    auto = "auto"
    float32 = "float32"
    bfloat16 = "bfloat16"
    float16 = "float16"


def engine(
    json_file: JsonOption,
    shape: Annotated[ShapeName, typer.Option(help="Of the model; its weights are random.")] = (
        ShapeName.smollm2
    ),
    device: Annotated[DeviceName, typer.Option(help="Where it runs.")] = DeviceName.cuda,
    dtype: Annotated[DtypeName, typer.Option(help="auto: bfloat16 on CUDA, float32 on CPU.")] = (
        DtypeName.auto
    ),
    cases: Annotated[
        str | None, typer.Option(help="Names with commas between, such as batch-1,mixed-512.")
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of each case; the median counts.")] = 3,
    through_serve: Annotated[bool, typer.Option(help="Also over loopback gRPC.")] = False,
    transformers: Annotated[
        bool | None, typer.Option(help="Also transformers' generate; by default on CPU.")
    ] = None,
    profile: Annotated[bool, typer.Option(help="Also where a step's time goes.")] = False,
    max_prefill_tokens: Annotated[
        int | None, typer.Option(min=1, help="Prompt tokens of a step; the engine's own choice.")
    ] = None,
) -> None:
    """Tokens a second of the engine, with random weights, random prompts and forced lengths."""
    from ssjf_bench.engine_cases import CASES, DEFAULT_CASES

    with extras():
        from ssjf_cli import engine_bench
    check_output(json_file)
    names = tuple(cases.split(",")) if cases else DEFAULT_CASES[device.value]
    if unknown := [name for name in names if name not in CASES]:
        fail(f"--cases: no {', '.join(unknown)}; there are {', '.join(CASES)}")
    options = engine_bench.EngineBenchOptions(
        shape=shape.value,
        device=device.value,
        dtype=dtype.value,
        cases=names,
        repeats=repeats,
        through_serve=through_serve,
        transformers=device is DeviceName.cpu if transformers is None else transformers,
        profile=profile,
        max_prefill_tokens=max_prefill_tokens,
    )
    try:
        with console.status("") as status:
            results = engine_bench.measure(options, status.update)
    except engine_bench.FAILURES as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    write_json(json_file, results)
    Console().print(engine_table(results))


def engine_table(results: Mapping[str, Any]) -> Table:
    """A line for each case."""
    title = f"{results['shape']}, {results['device']}, {results['dtype']}"
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("case", "through"):
        made.add_column(name, no_wrap=True)
    for name in ("tokens/s", "ms a step", "ms a decode step"):
        made.add_column(name, justify="right", no_wrap=True)
    for row in results["results"]:
        times = [row["step_ms"], row["decode_step_ms"]]
        made.add_row(
            row["case"],
            row["through"],
            f"{row['tokens_per_s']:,.1f}",
            *("" if each is None else f"{each:.3f}" for each in times),
        )
    return made
