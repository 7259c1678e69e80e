from __future__ import annotations

from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from predictor_svc.model_dir import open_model_dir
from predictor_svc.training.weights import revision, shipped_folder
from ssjf_cli.predictor_export import export

app = typer.Typer()
app.command()(export)


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments)


def test_the_precisions_asked_for_are_exported_and_said(tmp_path: Path) -> None:
    result = run("--out", str(tmp_path), "--precision", "fp16")
    assert result.exit_code == 0, result.output
    assert f"predictor {revision(shipped_folder())} (fp16) exported to" in result.output
    manifest = open_model_dir(tmp_path).manifest
    assert list(manifest.graphs) == ["fp16"]
    assert manifest.revision == revision(shipped_folder())


def test_weights_that_are_not_there_are_one_line(tmp_path: Path) -> None:
    result = run("--model", str(tmp_path / "none"), "--out", str(tmp_path / "out"))
    assert result.exit_code == 1
    assert "".join(result.output.split("\n")).startswith("ssjf predictor: ")
    assert "No such file" in result.output
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("precision", ["fp8", ""])
def test_an_unknown_precision_is_refused(precision: str, tmp_path: Path) -> None:
    result = run("--out", str(tmp_path / "out"), "--precision", precision)
    assert result.exit_code == 2
    assert "int8" in result.output
