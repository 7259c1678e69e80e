"""`ssjf bench as-published`, as a user calls it."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ssjf_cli.bench import app


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `lengths.csv`, `lengths.jsonl` and `training.json`."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(1)
    tokens = [draw.randint(2, 400) for _ in range(300)]
    table = ["output_tokens,pred_binary", *(f"{each},{int(each > 150)}" for each in tokens)]
    (folder / "lengths.csv").write_text("\n".join(table), encoding="utf-8")
    rows = [{"prompt": f"say {each}", "response_samples": [each]} for each in tokens]
    (folder / "lengths.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    training = {"recipe": "ssjf-pairwise", "test": {"kendall_tau_b": 0.5}}
    (folder / "training.json").write_text(json.dumps(training), encoding="utf-8")
    return folder


def run(folder: Path, *arguments: str | Path) -> Result:
    json_file, plots = folder / "results.json", folder / "plots"
    given = ["as-published", "--json", json_file, "--plots", plots, "--quick", *arguments]
    return CliRunner().invoke(app, [*map(str, given)])


def test_results_plots_and_tables_are_made(data: Path, tmp_path: Path) -> None:
    training = f"--training={data / 'training.json'}"
    done = run(tmp_path, "--lengths", data / "lengths.csv", training)
    assert done.exit_code == 0, done.output
    results = json.loads((tmp_path / "results.json").read_text(encoding="utf-8"))
    assert {"hardware", "versions", "commit", "command"} <= results.keys()
    assert [each["name"] for each in results["predictors"]] == ["binary", "ssjf-pairwise"]
    assert results["rules"]["fcfs_idles_s"] == 10
    assert {row["predictor"] for row in results["taken_apart"]} == {"oracle", "binary"}
    assert len(list((tmp_path / "plots").glob("*.png"))) == 2
    assert "FCFS idles 10 s" in done.stdout


def test_prompts_with_lengths_are_predicted_with_noise(data: Path, tmp_path: Path) -> None:
    # Named in what is said of a predictor that is not there.
    done = run(tmp_path, "--lengths", data / "lengths.jsonl", "--ablated", "binary")
    assert "there are noise 0.6" in done.stderr


def test_what_is_wrong_is_one_line(data: Path, tmp_path: Path) -> None:
    missing = run(tmp_path, "--lengths", tmp_path / "nowhere.csv")
    unknown = run(tmp_path, "--lengths", data / "lengths.csv", "--ablated", "multi")
    assert (missing.exit_code, unknown.exit_code) == (1, 1)
    assert "nowhere.csv" in missing.stderr
    assert "there are binary" in unknown.stderr
