"""`ssjf predictor …`: collect lengths, train, evaluate, build the served model.

Owns the options and what is printed. The work is done in `predictor_svc.training`,
imported when a command runs: torch takes seconds to import.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

if TYPE_CHECKING:
    from predictor_svc.training.data import Example
    from predictor_svc.training.evaluate import Evaluation
    from predictor_svc.training.train import Epoch

app = typer.Typer(no_args_is_help=True)
console = Console(stderr=True)

ExcludeSource = Annotated[
    list[str],
    typer.Option(help="Leave out rows of this source, or of its family before a slash."),
]

Data = Annotated[list[Path], typer.Option(help="JSONL with prompts and lengths; repeatable.")]
LengthsFiles = Annotated[
    list[Path], typer.Option(help="Lengths of prompts named by SHA-256; repeatable.")
]
PromptFiles = Annotated[list[Path], typer.Option(help="Prompts that --lengths is joined to.")]

HELD_OUT = tuple(
    path
    for name in ("tests/data/holdout_prompts.jsonl", "ssjf_bench/data/demo_prompts.jsonl")
    if (path := Path(__file__).resolve().parent.parent / name).is_file()
)


@app.callback()
def predictor() -> None:
    """The length predictor's model: data, training, build."""


@app.command()
def collect(
    engine: Annotated[str, typer.Option(help="HOST:PORT of a running engine.")],
    prompts: Annotated[list[Path], typer.Option(help="JSONL with prompts; may be repeated.")],
    out: Annotated[Path, typer.Option(help="JSONL to append to; prompts in it are skipped.")],
    samples: Annotated[int, typer.Option(min=1, help="Answers a prompt.")] = 6,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 0.95,
    concurrency: Annotated[
        int | None, typer.Option(min=1, help="Answers in flight; as many as the engine holds.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling; none by default.")] = None,
    text: Annotated[
        bool, typer.Option(help="Write the prompts; --no-text writes their SHA-256 instead.")
    ] = True,
    exclude_source: ExcludeSource = [],  # noqa: B006 (typer copies it)
    limit: Annotated[int | None, typer.Option(min=1, help="First N prompts only.")] = None,
) -> None:
    """Samples answers' lengths for every prompt through a running engine."""
    from predictor_svc.training.collect import CollectError, Collector
    from predictor_svc.training.collect import Progress as Collected
    from predictor_svc.training.data import read_prompts
    from predictor_svc.training.lengths_file import LengthsFile
    from predictor_svc.training.rows import DataError
    from predictor_svc.training.sampling import Sampling

    with failing_cleanly(CollectError, DataError), LengthsFile(out, with_text=text) as file:
        wanted = read_prompts(prompts, exclude_source)[:limit]
        missing = [prompt for prompt in wanted if prompt.digest not in file.done]
        console.print(f"{len(wanted)} prompts, {len(wanted) - len(missing)} of them in {out}")
        with progress_bar() as bar:
            task = bar.add_task("collecting", total=len(missing))

            def show(progress: Collected) -> None:
                done = progress.prompts_done + progress.prompts_failed
                bar.update(task, completed=done)

            sampling = Sampling(samples, max_tokens, temperature, top_p, seed)
            collector = Collector(sampling, file.append, show, concurrency)
            progress = asyncio.run(collector.run(engine, missing))
    console.print(
        f"{progress.prompts_done} prompts, {progress.answers} answers, "
        f"{progress.output_tokens} tokens; {progress.prompts_failed} prompts failed or do not fit"
    )


@app.command()
def train(
    data: Data = [],  # noqa: B006 (typer copies it)
    lengths: LengthsFiles = [],  # noqa: B006
    prompts: PromptFiles = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for the weights.")] = Path("trained"),
    exclude_source: ExcludeSource = [],  # noqa: B006
    hold_out: Annotated[
        list[Path], typer.Option(help="Prompts never to train on; the project's own by default.")
    ] = list(HELD_OUT),  # noqa: B006
    task: Annotated[str, typer.Option(help="What to learn.")] = "distribution",
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    split_seed: Annotated[int, typer.Option(help="Seed of the split by prompt.")] = 0,
    validation_share: Annotated[float, typer.Option(min=0.01, max=0.5)] = 0.1,
    test_share: Annotated[float, typer.Option(min=0.0, max=0.5)] = 0.1,
    epochs: Annotated[int, typer.Option(min=1)] = 5,
    batch_size: Annotated[int, typer.Option(min=2)] = 64,
    adapter_learning_rate: Annotated[float, typer.Option(min=0.0)] = 5e-4,
    adapter_rank: Annotated[int, typer.Option(min=1)] = 64,
    layers: Annotated[int, typer.Option(min=1, help="Backbone layers used.")] = 6,
    max_input_tokens: Annotated[int, typer.Option(min=8, max=512)] = 256,
    device: Annotated[str, typer.Option(help="cpu, cuda, or auto.")] = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
) -> None:
    """Fits the proxy model to sampled lengths and writes what is shipped of it."""
    import torch

    from predictor_svc.training.backbone import BackboneMissing, packaged_folder
    from predictor_svc.training.data import read_prompts, split_by_prompt, without_prompts
    from predictor_svc.training.evaluate import evaluate as measure
    from predictor_svc.training.rows import DataError
    from predictor_svc.training.tasks import TASKS
    from predictor_svc.training.train import TrainOptions
    from predictor_svc.training.train import train as fit
    from predictor_svc.training.weights import load_trained, save_weights

    if task not in TASKS:
        raise typer.BadParameter(f"there are: {', '.join(TASKS)}", param_hint="--task")
    if threads is not None:
        torch.set_num_threads(threads)
    options = TrainOptions(
        epochs=epochs,
        batch_size=batch_size,
        adapter_learning_rate=adapter_learning_rate,
        adapter_rank=adapter_rank,
        layers=layers,
        max_input_tokens=max_input_tokens,
        seed=seed,
    )
    with failing_cleanly(DataError, BackboneMissing, ValueError), progress_bar() as bar:
        examples = read_data(data, lengths, prompts, exclude_source)
        allowed = without_prompts(examples, read_prompts(hold_out))
        split = split_by_prompt(allowed, split_seed, validation_share, test_share)
        console.print(
            f"{len(split.train)} rows to train, {len(split.validation)} to validate, "
            f"{len(split.test)} to test; {len(examples) - len(allowed)} held out by prompt"
        )
        step = bar.add_task("training", total=None)

        def show_epoch(epoch: Epoch) -> None:
            console.print(
                f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, "
                f"validation tau-b {epoch.validation_tau_b:.4f}"
            )

        fitted = fit(
            split.train,
            split.validation,
            TASKS[task],
            options,
            packaged_folder(),
            torch.device(_device(device)),
            lambda done, total: bar.update(step, completed=done, total=total),
            show_epoch,
        )
        save_weights(fitted.model, fitted.config, out)
        test = measure(load_trained(out), split.test) if split.test else None
    record = {
        "options": asdict(options),
        "task": task,
        "exclude_source": exclude_source,
        "rows": {"train": len(split.train), "validation": len(split.validation)},
        "epochs": [asdict(epoch) for epoch in fitted.epochs],
        "test": test.as_json() if test else None,
    }
    (out / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    if test:
        print_evaluation(test)


@app.command()
def evaluate(
    data: Data = [],  # noqa: B006
    lengths: LengthsFiles = [],  # noqa: B006
    prompts: PromptFiles = [],  # noqa: B006
    model: Annotated[
        Path | None, typer.Option(help="Folder of weights; those shipped by default.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here, too.")
    ] = None,
    exclude_source: ExcludeSource = [],  # noqa: B006
) -> None:
    """Measures a model on prompts whose lengths are known."""
    from predictor_svc.model_dir import ModelDirError
    from predictor_svc.training.backbone import BackboneMissing
    from predictor_svc.training.evaluate import evaluate as measure
    from predictor_svc.training.rows import DataError
    from predictor_svc.training.weights import load_trained, shipped_folder

    with failing_cleanly(DataError, ModelDirError, BackboneMissing, ValueError):
        examples = read_data(data, lengths, prompts, exclude_source)
        evaluation = measure(load_trained(model or shipped_folder()), examples)
    print_evaluation(evaluation)
    if json_file is not None:
        json_file.write_text(json.dumps(evaluation.as_json(), indent=1) + "\n")


@app.command()
def build(
    out: Annotated[
        Path | None, typer.Option(help="Folder; by default the one that the service reads.")
    ] = None,
    model: Annotated[
        Path | None, typer.Option(help="Folder of weights; those shipped by default.")
    ] = None,
) -> None:
    """Builds the served model: packaged backbone + weights to one ONNX file."""
    from predictor_svc.model_dir import ModelDirError, default_model_dir
    from predictor_svc.training.backbone import BackboneMissing
    from predictor_svc.training.export import ParityError
    from predictor_svc.training.export import build as export
    from predictor_svc.training.weights import load_trained, shipped_folder

    folder = out or default_model_dir()
    with (
        failing_cleanly(ModelDirError, BackboneMissing, ParityError, OSError),
        console.status("exporting the predictor"),
    ):
        manifest = export(load_trained(model or shipped_folder()), folder)
    console.print(f"predictor {manifest.revision} built in {folder}", soft_wrap=True)


def read_data(
    data: list[Path], lengths: list[Path], prompts: list[Path], exclude_source: list[str]
) -> list[Example]:
    """Rows with their prompts, and rows joined to prompts by hash."""
    from predictor_svc.training.data import join_lengths, read_examples, read_prompts

    if not data and not (lengths and prompts):
        raise typer.BadParameter("give --data, or --lengths with --prompts")
    joined = join_lengths(lengths, read_prompts(prompts), exclude_source) if lengths else []
    return read_examples(data, exclude_source) + joined


def print_evaluation(evaluation: Evaluation) -> None:
    """The figures as a table on stdout, a line a source."""
    table = Table("source", title=f"predictor {evaluation.revision}")
    for heading in ("rows", "tau-b", "tau-b, all samples", "spearman", "MAE tokens", "<= p90"):
        table.add_column(heading, justify="right")
    for name, report in [*evaluation.per_source.items(), ("all", evaluation.overall)]:
        table.add_row(
            name,
            str(report.rows),
            f"{report.kendall_tau_b:.3f}",
            f"{report.kendall_tau_b_all_samples:.3f}",
            f"{report.spearman:.3f}",
            f"{report.mae_tokens:.0f}",
            f"{report.p90_coverage:.3f}",
        )
    Console().print(table)


def _device(name: str) -> str:
    import torch

    if name == "auto":
        return "cuda" if torch.cuda.is_available() else "cpu"
    return name


@contextmanager
def failing_cleanly(*kinds: type[Exception]) -> Iterator[None]:
    """Turns foreseen failures into one line and exit code 1."""
    try:
        yield
    except kinds as error:
        console.print(f"ssjf predictor: {error}", style="red", markup=False, highlight=False)
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
