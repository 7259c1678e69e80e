"""`ssjf predictor train` and `recipes`: lengths to weights, a record and curves.

Options and what is shown; the work is `predictor_svc.training`'s.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Sequence
from dataclasses import asdict
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ssjf_cli.predictor_evaluate import print_evaluation
from ssjf_cli.predictor_options import (
    Data,
    DeviceName,
    ExcludeSource,
    LengthsFiles,
    MaxSampleTokens,
    Only,
    PromptFiles,
    console,
    failing_cleanly,
    pick_device,
    progress_bar,
    read_data,
    write_result,
)

if TYPE_CHECKING:
    from predictor_svc.training.data import Example, Split
    from predictor_svc.training.train import Epoch, Fitted, Run

HELD_OUT = tuple(
    path
    for name in ("tests/data/holdout_prompts.jsonl", "ssjf_bench/data/demo_prompts.jsonl")
    if (path := Path(__file__).resolve().parent.parent / name).is_file()
)
CHECKPOINT = "checkpoint.pt"
RECORD = "training.json"
CURVES = "curves.png"


class SplitBy(StrEnum):
    """Where the parts come from."""

    prompt = "prompt"
    published = "published"


def train(
    data: Data = [],  # noqa: B006 (typer copies it)
    lengths: LengthsFiles = [],  # noqa: B006
    prompts: PromptFiles = [],  # noqa: B006
    out: Annotated[Path, typer.Option(help="Folder for the weights.")] = Path("trained"),
    recipe: Annotated[str, typer.Option(help="See `ssjf predictor recipes`.")] = "distribution",
    setting: Annotated[
        list[str], typer.Option("--set", help="NAME=VALUE, in place of the recipe's; repeatable.")
    ] = [],  # noqa: B006
    seed: Annotated[int, typer.Option(help="Seed of weights and order.")] = 0,
    split: Annotated[
        SplitBy, typer.Option(help="Parts drawn by prompt, or those that the data names.")
    ] = SplitBy.prompt,
    split_seed: Annotated[int, typer.Option(help="Seed of the split by prompt.")] = 0,
    validation_share: Annotated[
        float, typer.Option(min=0.01, max=1.0, help="Of all prompts; of a published part: of it.")
    ] = 0.1,
    test_share: Annotated[float, typer.Option(min=0.0, max=0.5)] = 0.1,
    also: Annotated[
        list[Path], typer.Option(help="More data, for training alone; repeatable.")
    ] = [],  # noqa: B006
    also_lengths: Annotated[
        list[Path], typer.Option(help="More lengths like --lengths, for training alone.")
    ] = [],  # noqa: B006
    max_rows: Annotated[
        int | None, typer.Option(min=2, help="Train on so many rows, drawn by the split's seed.")
    ] = None,
    exclude_source: ExcludeSource = [],  # noqa: B006
    exclude_model: Annotated[
        list[str], typer.Option(help="Never train on rows of this LLM; tested on all the same.")
    ] = [],  # noqa: B006
    only: Only = [],  # noqa: B006
    max_sample_tokens: MaxSampleTokens = None,
    hold_out: Annotated[
        list[Path], typer.Option(help="Prompts never to train on; the project's own by default.")
    ] = list(HELD_OUT),  # noqa: B006
    device: DeviceName = "auto",
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads.")] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help=f"Go on from {CHECKPOINT} in the folder.")
    ] = False,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the record here, too.")
    ] = None,
) -> None:
    """Fits the proxy model to answers' lengths, and measures it on the test part."""
    # Read when CUDA starts; without it, matrix products are not reproducible.
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    import torch

    from predictor_svc.training.backbone import BackboneMissing, backbone_folder
    from predictor_svc.training.data import DataError
    from predictor_svc.training.options import RECIPES, with_settings
    from predictor_svc.training.seen import save_seen
    from predictor_svc.training.train import Run

    if recipe not in RECIPES:
        raise typer.BadParameter(f"there are: {', '.join(RECIPES)}", param_hint="--recipe")
    if threads is not None:
        torch.set_num_threads(threads)
    started = time.monotonic()
    with failing_cleanly(DataError, BackboneMissing, ValueError, OSError):
        options = with_settings(RECIPES[recipe].options, setting)
        examples = read_data(
            data, lengths, prompts, exclude_source, only=only, max_sample_tokens=max_sample_tokens
        )
        more = []
        if also or also_lengths:
            more = read_data(
                also, also_lengths, prompts, exclude_source, max_sample_tokens=max_sample_tokens
            )
        parts = _split(examples, more, split, split_seed, validation_share, test_share, hold_out)
        kept = _training_rows(parts.train, exclude_model, max_rows, split_seed)
        held_back = [each for each in parts.validation if each.model not in exclude_model]
        run = Run(
            RECIPES[recipe].task,
            options,
            seed,
            pick_device(device),
            backbone_folder(options.backbone),
            out / CHECKPOINT,
            resume,
        )
        fitted = _fit(run, kept, held_back)
        record = _finish(run, fitted, parts, out)
        save_seen([*kept, *held_back], out)
    record = {
        "recipe": recipe,
        "task": run.task,
        "options": options.model_dump(),
        "seed": seed,
        "rows": {
            "train": len(kept),
            "validation": len(held_back),
            "test": len(parts.test),
            "dropped_as_leaks": parts.dropped,
        },
        "seconds": round(time.monotonic() - started, 1),
        **record,
    }
    _write(record, out, json_file)


def recipes() -> None:
    """Lists the named configurations of `train --recipe`, and their options."""
    from predictor_svc.training.options import RECIPES, TrainOptions

    table = Table("recipe", "task", "about", "options other than the default")
    plain = TrainOptions().model_dump()
    for name, recipe in RECIPES.items():
        changed = {k: v for k, v in recipe.options.model_dump().items() if v != plain[k]}
        shown = " ".join(f"{key}={value}" for key, value in changed.items())
        table.add_row(name, recipe.task, recipe.about, shown)
    Console().print(table)
    defaults = " ".join(f"{key}={value}" for key, value in plain.items())
    Console().print(f"defaults: {defaults}", soft_wrap=True, highlight=False)


def _split(
    examples: Sequence[Example],
    more: Sequence[Example],
    split: SplitBy,
    seed: int,
    validation_share: float,
    test_share: float,
    hold_out: Sequence[Path],
) -> Split:
    """The parts, `more` added to train, without any prompt that is held out."""
    from predictor_svc.training.data import (
        add_to_train,
        pool_validation,
        published_split,
        read_prompts,
        split_by_prompt,
        without_prompts,
    )

    held_out = read_prompts(hold_out)
    allowed = without_prompts(examples, held_out)
    if split is SplitBy.published:
        parts = pool_validation(published_split(allowed), seed, validation_share)
    else:
        parts = split_by_prompt(allowed, seed, validation_share, test_share)
    if more:
        parts = add_to_train(parts, without_prompts(more, held_out))
    console.print(
        f"{len(parts.train)} rows to train, {len(parts.validation)} to validate, "
        f"{len(parts.test)} to test; {len(examples) - len(allowed)} held out by prompt, "
        f"{parts.dropped} dropped because their prompt is in another part",
        highlight=False,
    )
    return parts


def _training_rows(
    examples: Sequence[Example], exclude_model: Sequence[str], max_rows: int | None, seed: int
) -> list[Example]:
    import random

    kept = [each for each in examples if each.model not in exclude_model]
    if max_rows is not None and len(kept) > max_rows:
        kept = random.Random(seed).sample(kept, max_rows)  # noqa: S311
    return kept


def _fit(run: Run, examples: Sequence[Example], validation: Sequence[Example]) -> Fitted:
    from predictor_svc.training.train import train as fit

    def show_epoch(epoch: Epoch) -> None:
        console.print(
            f"epoch {epoch.number}: loss {epoch.train_loss:.4f}, "
            f"validation tau-b {epoch.validation_tau_b:.4f}"
        )

    with progress_bar() as bar:
        step = bar.add_task("training", total=None)
        return fit(
            run,
            examples,
            validation,
            lambda done, total: bar.update(step, completed=done, total=total),
            show_epoch,
        )


def _finish(run: Run, fitted: Fitted, parts: Split, out: Path) -> dict[str, Any]:
    """Stores the weights, measures them on the test part, draws the curves."""
    from predictor_svc.training.evaluate import evaluate, nan_as_null
    from predictor_svc.training.plots import plot_curves
    from predictor_svc.training.weights import load_trained, save_weights

    save_weights(fitted.model, fitted.config, out)
    plot_curves(fitted.epochs, out / CURVES)
    (out / CHECKPOINT).unlink(missing_ok=True)
    record: dict[str, Any] = {"epochs": [nan_as_null(asdict(epoch)) for epoch in fitted.epochs]}
    if parts.test:
        evaluation = evaluate(load_trained(out), parts.test, run.device)
        print_evaluation(evaluation)
        record["test"] = evaluation.as_json()
    return record


def _write(record: dict[str, Any], out: Path, json_file: Path | None) -> None:
    (out / RECORD).write_text(json.dumps(record, indent=1) + "\n")
    if json_file is not None:
        write_result(record, json_file)
