"""Every recipe from lengths to predictions: train, store, load, evaluate, export, serve, read."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from predictor_svc.loaded import load
from predictor_svc.model_dir import open_model_dir
from predictor_svc.outputs import Readings
from predictor_svc.training.evaluate import evaluate, predict_raw
from predictor_svc.training.export import export
from predictor_svc.training.options import RECIPES, TrainOptions, with_settings
from predictor_svc.training.weights import Trained, load_trained, revision, save_weights
from tests.predictor_svc.small_model import load_options
from tests.predictor_svc.toy import fit, learnable, run_of

LLMS = ("one", "two")
UNSEEN = learnable(20, LLMS, start=700)


def quick(options: TrainOptions) -> TrainOptions:
    """Two epochs, the backbone frozen after one where the recipe freezes it at all."""
    frozen = [] if options.freeze_after_epochs is None else ["freeze_after_epochs=1"]
    return with_settings(options, ["epochs=2", "max_tokens=256", *frozen])


def served(folder: Path, trained: Trained) -> Readings:
    """What the service reads of the exported graph, the graph checked against the weights."""
    model = load(replace(load_options(folder), precision="fp32"))
    ids = model.encode([each.prompt.text for each in UNSEEN])
    outputs = model.worker.submit(model.run, ids).result()
    model.close()
    np.testing.assert_allclose(outputs, predict_raw(trained.model, ids), atol=1e-3)
    return model.manifest.config.output.read(outputs.astype(np.float64), np.full(len(ids), np.inf))


@pytest.mark.parametrize("name", list(RECIPES))
def test_a_recipe_s_model_is_served(
    name: str, tiny_backbone: Path, tiny_decoder: Path, tmp_path: Path
) -> None:
    recipe = RECIPES[name]
    backbone = tiny_backbone if recipe.options.backbone == "minilm" else tiny_decoder
    run = run_of(backbone, recipe.task, quick(recipe.options))
    fitted = fit(run, learnable(24, LLMS))
    save_weights(fitted.model, fitted.config, tmp_path / "weights")
    trained = load_trained(tmp_path / "weights", backbone)
    report = evaluate(trained, UNSEEN).overall
    assert report.rows == 40
    assert np.isfinite(report.mae_tokens)
    assert (report.classes is not None) == (trained.config.output.class_count > 0)

    manifest = export(trained, tmp_path / "model", ["fp32"])
    assert (manifest.config, manifest.revision) == (fitted.config, trained.revision)
    assert manifest.config.task == recipe.task
    assert bool(manifest.config.input.llms) == (recipe.options.llm != "none")
    readings = served(tmp_path / "model", trained)
    assert np.isfinite(readings.expected_tokens).all()
    assert (readings.expected_tokens >= 1).all()
    assert np.isfinite(readings.rank_scores).all()
    assert len(np.unique(readings.rank_scores)) > 5
    quantiles = trained.config.output.quantile_probabilities
    assert readings.quantiles.shape == (40, len(quantiles))
    assert (np.diff(readings.quantiles, axis=1) >= 0).all()
    if trained.config.output.class_count:
        assert readings.classes is not None
        assert set(readings.classes) <= set(range(trained.config.output.class_count))
    else:
        assert readings.classes is None
    if recipe.options.llm != "none":  # the two LLMs' answers to one prompt differ
        scores = readings.rank_scores.reshape(-1, 2)
        assert (scores[:, 0] != scores[:, 1]).all()


def test_a_model_whose_outputs_are_thousands_of_tokens_is_exported(
    tiny_backbone: Path, tmp_path: Path
) -> None:
    fitted = fit(run_of(tiny_backbone, "regression-l1", epochs=1))
    bias = fitted.model.get_parameter("head.outer.bias")
    bias.data.fill_(3000.0)
    fitted.model.get_parameter("head.outer.weight").data.mul_(2000.0)
    save_weights(fitted.model, fitted.config, tmp_path / "weights")
    trained = load_trained(tmp_path / "weights", tiny_backbone)
    spread = np.ptp(predict_raw(trained.model, [[101, n, 102] for n in range(2000, 2100)]))
    assert spread > 100
    export(trained, tmp_path / "model", ["fp32", "fp16"])


def test_the_served_model_is_that_of_the_weights(
    tiny_weights: Path, tiny_backbone: Path, tiny_model_dir: Path
) -> None:
    trained = load_trained(tiny_weights, tiny_backbone)
    assert open_model_dir(tiny_model_dir).manifest.revision == revision(tiny_weights)
    assert (served(tiny_model_dir, trained).rank_scores >= 0).all()
