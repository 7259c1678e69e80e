"""Train, pack, load, export, run: on a tiny random backbone."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from predictor_svc.encoder import load_encoder
from predictor_svc.model_dir import GRAPH, ModelDirError, open_model_dir
from predictor_svc.session import Session
from predictor_svc.training import export
from predictor_svc.training.data import Lengths
from predictor_svc.training.evaluate import evaluate, predict_logits
from predictor_svc.training.losses import distribution_loss, make_labels
from predictor_svc.training.train import Fitted
from predictor_svc.training.weights import WEIGHTS, load_trained, revision
from tests.predictor_svc.conftest import TINY_TASK, fit_tiny, learnable_examples


def test_training_learns_what_can_be_learnt(tiny_fitted: Fitted) -> None:
    losses = [epoch.train_loss for epoch in tiny_fitted.epochs]
    assert losses[-1] < losses[0]
    assert max(epoch.validation_tau_b for epoch in tiny_fitted.epochs) > 0.6


def test_the_same_seed_gives_the_same_model(tiny_fitted: Fitted, tiny_backbone: Path) -> None:
    again, other = fit_tiny(tiny_backbone), fit_tiny(tiny_backbone, seed=2)
    mine = tiny_fitted.model.state_dict()
    assert all(torch.equal(value, mine[name]) for name, value in again.model.state_dict().items())
    assert any(
        not torch.equal(value, mine[name]) for name, value in other.model.state_dict().items()
    )


def test_packed_weights_predict_as_the_fitted_model(
    tiny_fitted: Fitted, tiny_weights: Path, tiny_backbone: Path
) -> None:
    trained = load_trained(tiny_weights, tiny_backbone)
    ids = [[101, 2000 + n, 102] for n in range(10)]
    np.testing.assert_allclose(
        predict_logits(trained.model, ids), predict_logits(tiny_fitted.model, ids), atol=0.05
    )
    assert trained.config == tiny_fitted.config


def test_the_built_graph_gives_what_the_weights_give(
    tiny_weights: Path, tiny_backbone: Path, tiny_model_dir: Path
) -> None:
    trained = load_trained(tiny_weights, tiny_backbone)
    model = open_model_dir(tiny_model_dir)
    encoder = load_encoder(model.tokenizer, model.manifest.config.max_input_tokens)
    ids = encoder.encode([example.prompt.text for example in learnable_examples(20)])
    served = Session(model.graph, "cpu", 1).run(ids)
    assert np.abs(served - predict_logits(trained.model, ids)).max() < 1e-3


def test_the_manifest_names_the_weights_and_an_opset(
    tiny_weights: Path, tiny_model_dir: Path
) -> None:
    manifest = open_model_dir(tiny_model_dir).manifest
    assert manifest.revision == revision(tiny_weights)
    assert manifest.opset >= 17
    assert manifest.outputs == {"logits": ("batch", "12")}


def test_evaluation_tells_short_from_long(tiny_weights: Path, tiny_backbone: Path) -> None:
    evaluation = evaluate(load_trained(tiny_weights, tiny_backbone), learnable_examples(40))
    assert evaluation.overall.rows == 40
    assert evaluation.overall.kendall_tau_b > 0.6
    assert 0 <= evaluation.overall.p90_coverage <= 1
    assert evaluation.as_json()["per_source"] == {
        "own": {
            name: value
            for name, value in evaluation.as_json().items()
            if name not in ("per_source", "revision", "task")
        }
    }


def test_a_graph_that_computes_something_else_is_not_written(
    tiny_weights: Path,
    tiny_backbone: Path,
    tiny_model_dir: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def export_an_older_graph(model: object, path: Path) -> None:
        shutil.copyfile(tiny_model_dir / GRAPH, path)

    monkeypatch.setattr(export, "_export", export_an_older_graph)
    trained = load_trained(tiny_weights, tiny_backbone)
    with torch.no_grad():
        trained.model.get_parameter("head.5.bias").add_(0.01)
    with pytest.raises(export.ParityError, match=r"differ by 0\.01 "):
        export.build(trained, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_weights_of_another_backbone_are_refused(
    tiny_weights: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_weights, tmp_path / "weights")
    tensors = load_file(folder / WEIGHTS)
    tensors["head.2.bias"] = torch.zeros(3)
    metadata = load_trained(tiny_weights, tiny_backbone).model.metadata()
    save_file(tensors, folder / WEIGHTS, metadata=metadata)
    with pytest.raises(ModelDirError, match="do not fit the backbone"):
        load_trained(folder, tiny_backbone)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100])
def test_broken_weights_are_one_line(
    content: bytes, tiny_weights: Path, tiny_backbone: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_weights, tmp_path / "weights")
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelDirError, match=r"weights\.safetensors: "):
        load_trained(folder, tiny_backbone)


def test_a_cut_answer_asks_only_for_mass_beyond_the_cut() -> None:
    labels = make_labels([Lengths((256, 256), (False, False))], TINY_TASK)
    ranks = torch.linspace(0, 1, TINY_TASK.bins.count)
    logits = torch.full((1, TINY_TASK.bins.count), -20.0)
    logits[0, -1] = 20.0
    assert distribution_loss(logits, labels, ranks, TINY_TASK) < 1e-3
    assert distribution_loss(logits.flip(1), labels, ranks, TINY_TASK) > 10


def test_the_ranking_term_prefers_the_right_order() -> None:
    bins = TINY_TASK.bins.count
    lengths = [Lengths((3, 4), (True, True)), Lengths((100, 120), (True, True))]
    labels = make_labels(lengths, TINY_TASK)
    ranks = torch.linspace(0, 1, bins)
    right = torch.stack([torch.linspace(5, -5, bins), torch.linspace(-5, 5, bins)])
    right_loss = distribution_loss(right, labels, ranks, TINY_TASK)
    assert right_loss < distribution_loss(right.flip(0), labels, ranks, TINY_TASK)


def test_the_graph_file_holds_its_weights(tiny_model_dir: Path) -> None:
    assert sorted(path.name for path in tiny_model_dir.iterdir()) == [
        "model.json",
        GRAPH,
        "tokenizer.json",
    ]
