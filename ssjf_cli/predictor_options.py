"""What the commands of `ssjf predictor` share: options, data to read, the look of it.

Knows no command. Called by `predictor`, `predictor_data` and `predictor_export`.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

if TYPE_CHECKING:
    import torch

    from predictor_svc.training.data import Example

console = Console(stderr=True)

ExcludeSource = Annotated[
    list[str],
    typer.Option(help="Leave out rows of this source, or of its family before a slash."),
]
Data = Annotated[
    list[Path],
    typer.Option(help="JSONL or CSV, plain or .gz, with prompts and lengths; repeatable."),
]
LengthsFiles = Annotated[
    list[Path], typer.Option(help="Lengths of prompts named by SHA-256; repeatable.")
]
PromptFiles = Annotated[list[Path], typer.Option(help="Prompts that --lengths is joined to.")]
Only = Annotated[
    list[str], typer.Option(help="Only rows in which this column is true; repeatable.")
]
MaxSampleTokens = Annotated[
    int | None,
    typer.Option(min=1, help="Leave out rows of which any sample is longer than this."),
]

DeviceName = Annotated[str, typer.Option("--device", help="cpu, cuda, or auto.")]


def read_data(
    data: Sequence[Path],
    lengths: Sequence[Path],
    prompts: Sequence[Path],
    exclude_source: Sequence[str],
    *,
    only: Sequence[str] = (),
    max_sample_tokens: int | None = None,
) -> list[Example]:
    """Rows with their prompts, and rows joined to prompts by hash; says what it left out.

    Raises DataError for what is malformed, typer.BadParameter where there is nothing to read.
    """
    from predictor_svc.training.data import join_lengths, read_examples, read_prompts, within

    if not data and not (lengths and prompts):
        raise typer.BadParameter("give --data, or --lengths with --prompts")
    skipped: Counter[str] = Counter()
    joined = join_lengths(lengths, read_prompts(prompts), exclude_source) if lengths else []
    examples = read_examples(data, exclude_source, only=only, skipped=skipped)
    if only and data and not examples:
        raise typer.BadParameter(f"no row has {' and '.join(only)}", param_hint="--only")
    examples += joined
    if max_sample_tokens is not None:
        short = within(examples, max_sample_tokens)
        skipped[f"a sample above {max_sample_tokens} tokens"] = len(examples) - len(short)
        examples = short
    print_skipped(skipped)
    return examples


def print_skipped(skipped: Counter[str]) -> None:
    """One line with what was left out, if anything was."""
    reasons = ", ".join(f"{count} with {reason}" for reason, count in (+skipped).items())
    if reasons:
        console.print(f"rows left out: {reasons}", highlight=False)


@contextmanager
def failing_cleanly(*kinds: type[Exception]) -> Iterator[None]:
    """Turns foreseen failures into one line and exit code 1."""
    try:
        yield
    except kinds as error:
        line = f"ssjf predictor: {error}"
        console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(1) from None


def progress_bar() -> Progress:
    """The bar of every command here, on stderr."""
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
    )


def pick_device(name: str) -> torch.device:
    """The device asked for. Raises typer.BadParameter where it is not to be had."""
    import torch

    if name not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter("one of auto, cpu, cuda", param_hint="--device")
    has_cuda = torch.cuda.is_available()
    if name == "cuda" and not has_cuda:
        raise typer.BadParameter("PyTorch finds no CUDA here", param_hint="--device")
    return torch.device("cuda" if has_cuda and name != "cpu" else "cpu")


def write_result(figures: Mapping[str, object], path: Path) -> None:
    """Figures, and where they come from, as a JSON file."""
    from ssjf_bench.provenance import provenance

    path.parent.mkdir(parents=True, exist_ok=True)
    content = {**figures, **provenance(["ssjf", *sys.argv[1:]])}
    path.write_text(json.dumps(content, indent=1) + "\n")
