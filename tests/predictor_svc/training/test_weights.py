from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from predictor_svc.model_dir import ModelDirError
from predictor_svc.training.evaluate import predict_raw
from predictor_svc.training.train import Fitted
from predictor_svc.training.weights import (
    CONFIG,
    SHAPE,
    WEIGHTS,
    load_trained,
    revision,
    save_weights,
)
from tests.predictor_svc.toy import fit, learnable, run_of

IDS = [[101, 2, 2000 + n, 102] for n in range(10)]


@pytest.mark.parametrize(
    "options",
    [
        {"adapter_rank": 2},
        {"adapter_rank": 0, "layers": 1},
        {"head": "ssjf", "pooling": "cls", "llm": "head"},
        {"llm": "token", "head_tokens": 8, "turns": False},
    ],
)
def test_stored_weights_predict_as_the_fitted_model(
    options: dict[str, Any], tiny_backbone: Path, tmp_path: Path
) -> None:
    fitted = fit(run_of(tiny_backbone, epochs=1, **options), learnable(32, ("one", "two")))
    save_weights(fitted.model, fitted.config, tmp_path)
    trained = load_trained(tmp_path, tiny_backbone)
    np.testing.assert_allclose(
        predict_raw(trained.model, IDS), predict_raw(fitted.model, IDS), atol=0.05
    )
    assert trained.config == fitted.config
    assert trained.model.shape == fitted.model.shape
    assert not trained.model.training


@pytest.mark.parametrize("rank", [0, 2])
def test_weights_over_a_folder_of_one_s_own_find_it_again(
    rank: int, tiny_decoder: Path, tmp_path: Path
) -> None:
    run = run_of(tiny_decoder, epochs=1, adapter_rank=rank, pooling="last-mean", llm="head")
    options = run.options.model_copy(update={"backbone": str(tiny_decoder)})
    fitted = fit(replace(run, options=options), learnable(16, ("one", "two")))
    save_weights(fitted.model, fitted.config, tmp_path)
    trained = load_trained(tmp_path)
    rows = [[llm, 5, 6, 7] for llm in (0, 1, 2)]
    np.testing.assert_allclose(
        predict_raw(trained.model, rows), predict_raw(fitted.model, rows), atol=0.05
    )
    assert trained.tokenizer == tiny_decoder / "tokenizer.json"
    assert trained.config.input.layout == "chat"
    assert any("words" in name for name in load_file(tmp_path / WEIGHTS)) == (rank == 0)


def test_of_adapters_over_a_frozen_backbone_only_they_are_stored(
    tiny_weights: Path, tiny_fitted: Fitted
) -> None:
    stored = load_file(tiny_weights / WEIGHTS)
    assert set(stored) == set(tiny_fitted.model.trained_parameters())
    assert {each.dtype for each in stored.values()} == {torch.float16}
    assert not any("words" in name for name in stored)
    assert sorted(path.name for path in tiny_weights.iterdir()) == [CONFIG, WEIGHTS]


def test_weights_are_readable_by_all(tiny_weights: Path) -> None:
    assert (tiny_weights / WEIGHTS).stat().st_mode & 0o777 == 0o644


def test_the_revision_changes_with_weights_and_with_configuration(
    tiny_fitted: Fitted, tiny_weights: Path, tmp_path: Path
) -> None:
    save_weights(tiny_fitted.model, tiny_fitted.config, tmp_path)
    assert revision(tmp_path) == revision(tiny_weights)
    config = tiny_fitted.config.model_copy(update={"llm": "other"})
    save_weights(tiny_fitted.model, config, tmp_path)
    renamed = revision(tmp_path)
    (tmp_path / WEIGHTS).write_bytes((tiny_weights / WEIGHTS).read_bytes() + b"\0")
    assert len({revision(tiny_weights), renamed, revision(tmp_path)}) == 3


@pytest.fixture
def copy(tiny_weights: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(tiny_weights, tmp_path / "weights"))


def rewrite(folder: Path, changes: dict[str, torch.Tensor], shape: str | None = None) -> None:
    with safe_open(folder / WEIGHTS, framework="pt") as file:
        metadata = dict(file.metadata())
    tensors = load_file(folder / WEIGHTS) | changes
    save_file(tensors, folder / WEIGHTS, metadata=metadata if shape is None else {SHAPE: shape})


@pytest.mark.parametrize("name", ["head.outer.bias", "head.another"])
def test_weights_of_another_backbone_are_refused(
    name: str, copy: Path, tiny_backbone: Path
) -> None:
    rewrite(copy, {name: torch.zeros(3)})
    with pytest.raises(ModelDirError, match="do not fit the backbone"):
        load_trained(copy, tiny_backbone)


@pytest.mark.parametrize("shape", ["", "{}", '{"outputs": 0}'])
def test_weights_that_do_not_say_their_shape_are_refused(
    shape: str, copy: Path, tiny_backbone: Path
) -> None:
    rewrite(copy, {}, shape)
    with pytest.raises(ModelDirError, match="metadata has no valid 'shape'"):
        load_trained(copy, tiny_backbone)


@pytest.mark.parametrize("content", [b"", b"\x00" * 100])
def test_broken_weights_are_one_line(content: bytes, copy: Path, tiny_backbone: Path) -> None:
    (copy / WEIGHTS).write_bytes(content)
    with pytest.raises(ModelDirError, match=r"weights\.safetensors: "):
        load_trained(copy, tiny_backbone)


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_files_are_named(name: str, copy: Path, tiny_backbone: Path) -> None:
    (copy / name).unlink()
    with pytest.raises(ModelDirError, match=name):
        load_trained(copy, tiny_backbone)
