"""What `train` and `evaluate` read, and what they say of it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import typer

from ssjf_cli.predictor_options import failing_cleanly, read_data


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows = [
        {"prompt": "a", "response_samples": [3, 4], "core": True},
        {"prompt": "b", "response_samples": [3, 4000]},
        {"prompt": "c", "response_samples": None},
    ]
    path = tmp_path / "data.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_what_is_left_out_is_said(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (example,) = read_data([data], [], [], [], max_sample_tokens=3000)
    assert example.prompt.text.prompt == "a"
    said = " ".join(capsys.readouterr().err.split())
    assert said == ("rows left out: 1 with no known length, 1 with a sample above 3000 tokens")


def test_nothing_is_said_where_nothing_is_left_out(
    data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(read_data([data], [], [], [], only=["core"])) == 1
    assert capsys.readouterr().err == ""


def test_a_column_that_is_true_nowhere_is_a_mistake(data: Path) -> None:
    with pytest.raises(typer.BadParameter, match="no row has kore"):
        read_data([data], [], [], [], only=["kore"])


def test_without_data_there_is_nothing_to_do() -> None:
    with pytest.raises(typer.BadParameter, match="--data"):
        read_data([], [], [], [])


def test_a_foreseen_failure_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(typer.Exit) as exit_, failing_cleanly(ValueError):
        raise ValueError("a [bracket] in the " + "long " * 30 + "line")
    assert exit_.value.exit_code == 1
    assert capsys.readouterr().err.startswith("ssjf predictor: a [bracket] in the long ")
