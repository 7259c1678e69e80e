from __future__ import annotations

import math
from pathlib import Path

import pytest

from predictor_svc.training.evaluate import evaluate
from predictor_svc.training.plots import plot_curves, plot_evaluation
from predictor_svc.training.train import Epoch
from predictor_svc.training.weights import load_trained, save_weights
from tests.predictor_svc.toy import fit, learnable, run_of

PNG = b"\x89PNG"


def drawn(folder: Path) -> list[str]:
    """Names of the pictures in a folder."""
    return sorted(path.name for path in folder.iterdir() if path.read_bytes().startswith(PNG))


def test_a_distribution_s_evaluation_has_three_plots(
    tiny_weights: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    found = evaluate(load_trained(tiny_weights, tiny_backbone), learnable(20))
    plot_evaluation(found, tmp_path / "new" / "plots")
    assert drawn(tmp_path / "new" / "plots") == [
        "calibration.png",
        "predicted.png",
        "residuals.png",
    ]


def test_without_a_distribution_there_is_no_calibration(
    tiny_backbone: Path, tmp_path: Path
) -> None:
    fitted = fit(run_of(tiny_backbone, "regression-l1", epochs=1, adapter_rank=2))
    save_weights(fitted.model, fitted.config, tmp_path / "weights")
    found = evaluate(load_trained(tmp_path / "weights", tiny_backbone), learnable(20))
    plot_evaluation(found, tmp_path / "plots")
    assert drawn(tmp_path / "plots") == ["predicted.png", "residuals.png"]


@pytest.mark.parametrize("tau", [0.4, math.nan])
def test_curves_are_drawn_for_any_epochs(tau: float, tmp_path: Path) -> None:
    plot_curves([Epoch(1, 3.0, tau)], tmp_path / "one.png")
    plot_curves([Epoch(1, 3.0, tau), Epoch(2, 2.0, 0.5)], tmp_path / "folder" / "two.png")
    assert drawn(tmp_path / "folder") == ["two.png"]
    assert (tmp_path / "one.png").read_bytes() != (tmp_path / "folder" / "two.png").read_bytes()
