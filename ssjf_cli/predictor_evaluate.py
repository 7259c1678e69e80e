"""`ssjf predictor evaluate`: a model's figures and plots on data with known lengths.

Options, table and files; the figures are `predictor_svc.training.evaluate`'s.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table

from ssjf_cli.predictor_options import (
    Data,
    DeviceName,
    ExcludeSource,
    LengthsFiles,
    MaxSampleTokens,
    Only,
    PromptFiles,
    failing_cleanly,
    pick_device,
    progress_bar,
    read_data,
    write_result,
)

if TYPE_CHECKING:
    from predictor_svc.training.evaluate import Evaluation, Report

MODELS_SHOWN = 20


def evaluate(
    data: Data = [],  # noqa: B006 (typer copies it)
    lengths: LengthsFiles = [],  # noqa: B006
    prompts: PromptFiles = [],  # noqa: B006
    model: Annotated[
        Path | None, typer.Option(help="Folder of weights; those shipped by default.")
    ] = None,
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write the figures here, too.")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(
            help="Folder for the plots: predicted against actual, calibration, residuals."
        ),
    ] = None,
    exclude_source: ExcludeSource = [],  # noqa: B006
    only: Only = [],  # noqa: B006
    max_sample_tokens: MaxSampleTokens = None,
    unseen: Annotated[
        bool, typer.Option("--unseen", help="Leave out the prompts that the model was trained on.")
    ] = False,
    device: DeviceName = "auto",
) -> None:
    """Measures a model on prompts whose lengths are known."""
    from predictor_svc.model_dir import ModelDirError
    from predictor_svc.training.backbone import BackboneMissing
    from predictor_svc.training.data import DataError
    from predictor_svc.training.evaluate import evaluate as measure
    from predictor_svc.training.plots import plot_evaluation
    from predictor_svc.training.seen import unseen as never_trained_on
    from predictor_svc.training.weights import load_trained, shipped_folder

    with failing_cleanly(DataError, ModelDirError, BackboneMissing, ValueError, OSError):
        examples = read_data(
            data, lengths, prompts, exclude_source, only=only, max_sample_tokens=max_sample_tokens
        )
        if unseen:
            examples = never_trained_on(examples, model or shipped_folder())
        trained = load_trained(model or shipped_folder())
        with progress_bar() as bar:
            step = bar.add_task("predicting distinct prompts", total=None)
            evaluation = measure(
                trained,
                examples,
                pick_device(device),
                lambda done, total: bar.update(step, completed=done, total=total),
            )
        print_evaluation(evaluation)
        if json_file is not None:
            write_result(evaluation.as_json(), json_file)
        if plots is not None:
            plot_evaluation(evaluation, plots)


def print_evaluation(evaluation: Evaluation) -> None:
    """The figures as tables on stdout: a line a source, and a line an LLM where there are few."""
    Console().print(_table("source", evaluation, evaluation.per_source))
    if 1 < len(evaluation.per_model) <= MODELS_SHOWN:
        Console().print(_table("LLM", evaluation, evaluation.per_model))


def _table(what: str, evaluation: Evaluation, groups: Mapping[str, Report]) -> Table:
    table = Table(what, title=f"predictor {evaluation.revision} ({evaluation.task})")
    for heading in ("rows", "tau-b", "all samples", "mean over LLMs", "spearman", "MAE tokens"):
        table.add_column(heading, justify="right")
    table.add_column(
        "<= p90" if evaluation.overall.quantile_coverage else "accuracy", justify="right"
    )
    for name, report in [*groups.items(), ("all", evaluation.overall)]:
        last = (
            report.quantile_coverage.get("0.9")
            if report.quantile_coverage
            else report.classes.accuracy
            if report.classes
            else None
        )
        table.add_row(
            name,
            str(report.rows),
            f"{report.kendall_tau_b:.3f}",
            f"{report.kendall_tau_b_all_samples:.3f}",
            f"{report.kendall_tau_b_model_mean:.3f}",
            f"{report.spearman:.3f}",
            f"{report.mae_tokens:.0f}",
            "" if last is None else f"{last:.3f}",
        )
    return table
