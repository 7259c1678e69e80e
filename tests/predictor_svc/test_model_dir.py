from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from predictor_svc.model_dir import (
    GRAPH,
    MANIFEST,
    TOKENIZER,
    ModelDirError,
    default_model_dir,
    open_model_dir,
)


def test_a_built_folder_opens(tiny_model_dir: Path) -> None:
    model = open_model_dir(tiny_model_dir)
    assert model.graph == tiny_model_dir / GRAPH
    assert model.manifest.config.llm == "tiny-llm"
    assert model.manifest.inputs["input_ids"] == ("batch", "length")


@pytest.mark.parametrize("name", [GRAPH, TOKENIZER, MANIFEST])
def test_a_missing_file_is_named_with_the_command_that_makes_it(
    name: str, tiny_model_dir: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(ModelDirError, match=f"no {name} in .*run `ssjf predictor build`"):
        open_model_dir(folder)


def test_a_wrong_key_is_named(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    content = json.loads((folder / MANIFEST).read_text())
    content["config"]["bin_count"] = "many"
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ModelDirError, match=r"model\.json: config\.bin_count: .*integer"):
        open_model_dir(folder)


def test_a_truncated_manifest_is_one_line(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    content = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(content[: len(content) // 2])
    with pytest.raises(ModelDirError, match=r"^[^\n]+$"):
        open_model_dir(folder)


def test_bins_and_rank_values_must_agree(tiny_model_dir: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(tiny_model_dir, tmp_path / "model")
    content = json.loads((folder / MANIFEST).read_text())
    content["config"]["rank_values"].pop()
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ModelDirError, match="rank_values: one for each bin"):
        open_model_dir(folder)


def test_the_default_folder_belongs_to_this_environment() -> None:
    assert default_model_dir().parts[-3:] == ("share", "ssjf", "predictor")
