"""Plots of a training run and of an evaluation.

Owns how they look; the figures come from `train` and `evaluate`. Called by the commands.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from predictor_svc.training.evaluate import Evaluation
from predictor_svc.training.train import Epoch

DPI = 110
POINTS = 5000
"""Rows drawn at most: more of them only hide one another."""


def plot_curves(epochs: Sequence[Epoch], path: Path) -> None:
    """Training loss and validation tau-b by epoch."""
    figure, (loss, tau) = _figure(2)
    numbers = [epoch.number for epoch in epochs]
    loss.plot(numbers, [epoch.train_loss for epoch in epochs], marker="o")
    tau.plot(numbers, [epoch.validation_tau_b for epoch in epochs], marker="o", color="tab:green")
    _label(loss, "training loss", "epoch", "mean loss")
    _label(tau, "validation", "epoch", "Kendall τ-b")
    for axes in (loss, tau):
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    _save(figure, path)


def plot_evaluation(evaluation: Evaluation, folder: Path) -> None:
    """`predicted.png`, `residuals.png` and, with a predicted distribution, `calibration.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    chosen = np.random.default_rng(0).permutation(len(evaluation.actual))[:POINTS]
    predicted = evaluation.readings.expected_tokens[chosen]
    actual = np.maximum(evaluation.actual[chosen], 1.0)
    _predicted(predicted, actual, evaluation.overall.kendall_tau_b, folder / "predicted.png")
    _residuals(predicted, actual, folder / "residuals.png")
    if len(evaluation.levels):
        _calibration(evaluation, folder / "calibration.png")


def _predicted(predicted: np.ndarray, actual: np.ndarray, tau: float, path: Path) -> None:
    figure, (axes,) = _figure(1)
    axes.scatter(predicted, actual, s=6, alpha=0.3, linewidths=0)
    ends = [1.0, float(max(predicted.max(), actual.max()))]
    axes.plot(ends, ends, color="black", linewidth=0.8, label="equal")
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend(frameon=False)
    _label(axes, f"Kendall τ-b {tau:.3f}", "expected tokens", "actual tokens (first sample)")
    _save(figure, path)


def _residuals(predicted: np.ndarray, actual: np.ndarray, path: Path) -> None:
    figure, (axes,) = _figure(1)
    ratios = np.log2(actual / predicted)
    axes.hist(ratios, bins=60)
    axes.axvline(0.0, color="black", linewidth=0.8)
    axes.axvline(float(np.median(ratios)), color="tab:red", linewidth=1.2, label="median")
    axes.legend(frameon=False)
    _label(axes, "residuals", "log2(actual / expected)", "rows")
    _save(figure, path)


def _calibration(evaluation: Evaluation, path: Path) -> None:
    """Where actual lengths lie in their predicted distributions: the levels that serve the
    quantiles, against the share of lengths below them."""
    figure, (axes,) = _figure(1)
    coverage = evaluation.overall.quantile_coverage
    wanted = [float(each) for each in coverage]
    axes.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="as it should be")
    axes.plot(wanted, list(coverage.values()), marker="o", color="tab:green", label="measured")
    axes.legend(frameon=False)
    _label(axes, "calibration", "quantile", "share of lengths at or under it")
    _save(figure, path)


def _figure(count: int) -> tuple[Figure, Sequence[Axes]]:
    # Not through pyplot: no display is needed, and no state is left behind.
    figure = Figure(figsize=(5.2 * count, 4.2))
    return figure, list(figure.subplots(1, count, squeeze=False)[0])


def _label(axes: Axes, title: str, horizontal: str, vertical: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(horizontal)
    axes.set_ylabel(vertical)
    axes.spines[["top", "right"]].set_visible(False)


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.tight_layout()
    figure.savefig(path, dpi=DPI)
