from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor_svc.model_dir import (
    MANIFEST,
    TOKENIZER,
    Manifest,
    ModelDirError,
    default_model_dir,
    open_model_dir,
)
from tests.predictor_svc.small_model import write_model

REVISION = "0123456789abcdef"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A small model, in fp32 alone."""
    write_model(tmp_path / "model", REVISION)
    return tmp_path / "model"


def change_manifest(folder: Path, **changes: Any) -> None:
    content = json.loads((folder / MANIFEST).read_text()) | changes
    (folder / MANIFEST).write_text(json.dumps(content))


def graph_file(folder: Path) -> Path:
    manifest = Manifest.model_validate_json((folder / MANIFEST).read_bytes())
    return folder / manifest.graphs["fp32"].file


def test_a_whole_folder_opens(folder: Path) -> None:
    model = open_model_dir(folder)
    assert model.tokenizer == folder / TOKENIZER
    assert model.graph("fp32") == graph_file(folder)
    assert model.manifest.revision == REVISION
    assert model.manifest.inputs["input_ids"] == ("batch", "length")


@pytest.mark.parametrize("name", [TOKENIZER, MANIFEST])
def test_a_missing_file_is_named_with_the_command_that_makes_it(name: str, folder: Path) -> None:
    (folder / name).unlink()
    with pytest.raises(ModelDirError, match=f"no {name} in .*run `ssjf predictor export`"):
        open_model_dir(folder)


def test_a_missing_graph_is_named_with_the_command_that_makes_it(folder: Path) -> None:
    graph_file(folder).unlink()
    model = open_model_dir(folder)
    with pytest.raises(ModelDirError, match=r"no .*fp32\.onnx in .*run `ssjf predictor export`"):
        model.graph("fp32")


def test_a_missing_precision_is_answered_with_those_there_are(folder: Path) -> None:
    with pytest.raises(ModelDirError, match=r"no int8 graph in .*, only fp32: run"):
        open_model_dir(folder).graph("int8")


def test_a_graph_with_one_other_byte_is_damaged(folder: Path) -> None:
    content = bytearray(graph_file(folder).read_bytes())
    content[len(content) // 2] ^= 1
    graph_file(folder).write_bytes(content)
    with pytest.raises(ModelDirError, match=r"fp32\.onnx is damaged"):
        open_model_dir(folder).graph("fp32")


def test_a_torn_tokenizer_is_damaged(folder: Path) -> None:
    content = (folder / TOKENIZER).read_bytes()
    (folder / TOKENIZER).write_bytes(content[: len(content) // 2])
    with pytest.raises(ModelDirError, match=r"tokenizer\.json is damaged"):
        open_model_dir(folder)


@pytest.mark.parametrize(
    ("changes", "problem"),
    [
        ({"opset": "many"}, r"opset: .*integer"),
        ({"cpu_precision": "int8"}, "there is no int8 graph"),
        ({"graphs": {}}, "graphs: "),
        ({"graphs": {"fp32": {"file": "../x", "sha256": "0" * 64}}}, r"graphs\.fp32\.file: "),
        ({"tokenizer": {"file": TOKENIZER, "sha256": "short"}}, r"tokenizer\.sha256: "),
        ({"author": "me"}, "author: "),
    ],
)
def test_a_wrong_key_is_named(changes: dict[str, Any], problem: str, folder: Path) -> None:
    change_manifest(folder, **changes)
    with pytest.raises(ModelDirError, match=rf"model\.json: .*{problem}"):
        open_model_dir(folder)


def test_a_truncated_manifest_is_one_line(folder: Path) -> None:
    content = (folder / MANIFEST).read_text()
    (folder / MANIFEST).write_text(content[: len(content) // 2])
    with pytest.raises(ModelDirError, match=r"^[^\n]+$"):
        open_model_dir(folder)


def test_bins_and_rank_values_must_agree(folder: Path) -> None:
    content = json.loads((folder / MANIFEST).read_text())
    content["config"]["output"]["rank_values"].pop()
    (folder / MANIFEST).write_text(json.dumps(content))
    with pytest.raises(ModelDirError, match="rank_values: one for each bin"):
        open_model_dir(folder)


def test_the_default_folder_belongs_to_this_environment() -> None:
    assert default_model_dir().parts[-3:] == ("share", "ssjf", "predictor")
