"""`ssjf predictor train | evaluate` as a user calls them, on the tiny backbone.

`build` is called by the fixture that makes the tiny served model.
"""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from predictor_svc.encoder import PromptText
from predictor_svc.training import backbone, weights
from predictor_svc.training.data import Prompt
from ssjf_cli.predictor import app

FAST = ("--epochs", "1", "--adapter-rank", "2", "--max-input-tokens", "32", "--device", "cpu")


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture(autouse=True)
def on_the_tiny_backbone(tiny_backbone: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in (backbone, weights):
        monkeypatch.setattr(module, "packaged_folder", lambda: tiny_backbone)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.jsonl"
    rows = [
        {"prompt": f"Question number {n}?", "source": "own", "response_samples": [n + 1, n + 2]}
        for n in range(60)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_evaluate_measures_what_train_wrote(data: Path, tmp_path: Path) -> None:
    out, figures = tmp_path / "weights", tmp_path / "figures.json"
    trained = run("train", "--data", data, "--out", out, "--exclude-source", "none", *FAST)
    assert trained.exit_code == 0, trained.output
    record = json.loads((out / "training.json").read_text())
    assert len(record["epochs"]) == 1
    assert record["rows"]["train"] + record["rows"]["validation"] < 60
    evaluated = run("evaluate", "--data", data, "--model", out, "--json", figures)
    assert evaluated.exit_code == 0, evaluated.output
    assert json.loads(figures.read_text())["rows"] == 60


def test_held_out_prompts_are_never_trained_on(data: Path, tmp_path: Path) -> None:
    held = tmp_path / "held.jsonl"
    held.write_text(
        "".join(json.dumps({"prompt": f"question number {n}?"}) + "\n" for n in range(20))
    )
    result = run("train", "--data", data, "--out", tmp_path / "w", "--hold-out", held, *FAST)
    assert "20 held out by prompt" in result.output


def test_lengths_without_text_train_with_their_prompts(tmp_path: Path) -> None:
    texts = [f"Question number {n}?" for n in range(60)]
    prompts, lengths = tmp_path / "prompts.jsonl", tmp_path / "lengths.jsonl"
    prompts.write_text("".join(json.dumps({"prompt": text}) + "\n" for text in texts))
    rows = [
        {"prompt_sha256": Prompt("", "", PromptText(text)).digest, "response_samples": [n + 1]}
        for n, text in enumerate(texts)
    ]
    lengths.write_text("".join(json.dumps(row) + "\n" for row in rows))
    joined = ("--lengths", lengths, "--prompts", prompts)
    result = run("train", *joined, "--out", tmp_path / "w", *FAST)
    assert result.exit_code == 0, result.output
    figures = tmp_path / "figures.json"
    run("evaluate", *joined, "--model", tmp_path / "w", "--json", figures)
    assert json.loads(figures.read_text())["rows"] == 60


def test_a_malformed_row_is_one_line(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jsonl"
    bad.write_text('{"prompt": "x"}\n')
    result = run("evaluate", "--data", bad)
    assert result.exit_code == 1
    assert "bad.jsonl:1: column 'response_samples': missing" in result.output.replace("\n", "")


def test_weights_that_are_not_there_are_named(data: Path, tmp_path: Path) -> None:
    result = run("evaluate", "--data", data, "--model", tmp_path / "nowhere")
    assert result.exit_code == 1
    assert "nowhere/config.json" in result.output.replace("\n", "")


def test_without_data_the_usage_is_shown() -> None:
    assert run("evaluate").exit_code == 2


def test_too_few_prompts_are_refused(tmp_path: Path) -> None:
    data = tmp_path / "data.jsonl"
    data.write_text('{"prompt": "x", "response_length": 3}\n')
    result = run("train", "--data", data, "--out", tmp_path / "w", *FAST)
    assert result.exit_code == 1
    assert "too few" in result.output
