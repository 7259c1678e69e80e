"""`ssjf bench predictor`: every case on the real service, and what it refuses to measure."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copytree

import onnxruntime
import pytest
from typer.testing import CliRunner, Result

from predictor_svc.model_dir import default_model_dir, open_model_dir
from predictor_svc.training import backbone
from predictor_svc.training.backbone import Packaged
from predictor_svc.training.weights import shipped_folder
from ssjf_cli.bench import app
from tests.ssjf_bench.fake_predictor import FakePredictor, serving

CUDA = "CUDAExecutionProvider"
CASES = [
    *("predict_low_load", "predict_seen_before"),
    *("predict_saturated", "predict_saturated_32_a_call"),
    *("onnxruntime_b1", "onnxruntime_b32", "pytorch_eager_b1", "pytorch_eager_b32"),
]


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["predictor", *arguments])


@contextmanager
def predictor_on(provider: str, revision: str | None = None) -> Iterator[str]:
    served = revision or open_model_dir(default_model_dir()).manifest.revision
    with serving(FakePredictor(revision=served, provider=provider)) as address:
        yield address


@pytest.mark.service
@pytest.mark.timeout(300)
def test_every_case_is_measured_on_the_provider_asked_for(tmp_path: Path) -> None:
    out = tmp_path / "bench.json"
    command = [sys.executable, "-m", "ssjf_cli", "bench", "predictor"]
    options = [
        *(f"--json={out}", "--provider=cpu", "--predictors=2"),
        *("--seconds=0.5", "--clients=2"),
    ]
    result = subprocess.run([*command, *options], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    data = json.loads(out.read_text())
    assert data["provider"] == "CPUExecutionProvider"
    assert data["prompt_tokens"] == 128
    assert data["predictors"] == 2
    assert data["revision"] == open_model_dir(default_model_dir()).manifest.revision
    assert {"hardware", "versions", "commit", "command"} <= set(data)
    assert data["command"][1:] == ["bench", "predictor", *options]
    rows = {row["case"]: row for row in data["results"]}
    assert list(rows) == CASES
    for row in rows.values():
        times = [row[name] for name in ("p50_ms", "p90_ms", "p99_ms")]
        assert 0 < times[0] <= times[1] <= times[2] < math.inf
        assert 0 < row["mean_ms"] < math.inf
        assert row["prompts_per_s"] >= 0
        assert row["calls"] >= 1
    assert rows["predict_saturated"]["concurrency"] == 64
    assert len(rows["predict_saturated"]["client_cores"]) == 2
    # A prompt seen before is answered without the network.
    assert rows["predict_seen_before"]["p50_ms"] < rows["predict_low_load"]["p50_ms"]
    assert [case for case in CASES if case not in result.stdout] == []


def test_a_predictor_on_another_provider_is_not_measured(tmp_path: Path) -> None:
    with predictor_on("CPUExecutionProvider") as address:
        result = run(f"--json={tmp_path / 'x'}", "--provider=cuda", f"--address={address}")
    assert result.exit_code == 1
    assert f"asked for {CUDA}, the predictor is on CPUExecutionProvider" in _line(result)
    assert not (tmp_path / "x").exists()


def test_a_predictor_of_another_revision_is_not_measured(tmp_path: Path) -> None:
    with predictor_on("CPUExecutionProvider", "fedcba9876543210") as address:
        result = run(f"--json={tmp_path / 'x'}", f"--address={address}")
    assert result.exit_code == 1
    assert "the predictor serves revision fedcba9876543210" in _line(result)


@pytest.mark.skipif(
    CUDA in onnxruntime.get_available_providers(), reason="this ONNX Runtime has CUDA"
)
def test_cuda_that_is_not_there_is_a_failure_not_a_slow_result(tmp_path: Path) -> None:
    result = run(f"--json={tmp_path / 'x'}", "--provider=cuda")
    assert result.exit_code == 1
    assert "this ONNX Runtime has no CUDA" in _line(result)


def test_a_folder_without_a_model_is_one_line(tmp_path: Path) -> None:
    result = run(f"--json={tmp_path / 'x'}", f"--model-dir={tmp_path}")
    assert result.exit_code == 1
    assert "no model.json in" in _line(result)
    assert "ssjf predictor export" in _line(result)


def test_an_address_where_nothing_listens_is_one_line(tmp_path: Path) -> None:
    with predictor_on("CPUExecutionProvider") as address:
        pass
    result = run(f"--json={tmp_path / 'x'}", f"--address={address}")
    assert result.exit_code == 1
    assert f"no predictor answers at {address}: UNAVAILABLE" in _line(result)


def test_without_the_backbone_eager_pytorch_is_left_out_and_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Packaged("gt_a_package_that_is_not_there", lambda folder: folder)
    monkeypatch.setitem(backbone.PACKAGED, backbone.MINILM, absent)
    out = tmp_path / "bench.json"
    with predictor_on("CPUExecutionProvider") as address:
        options = ("--provider=cpu", f"--address={address}", "--seconds=0.2", "--clients=1")
        result = run(f"--json={out}", *options)
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    assert [row["case"] for row in data["results"]] == CASES[:6]
    assert "gt_a_package_that_is_not_there is not installed" in data["left_out"][0]
    assert "left out: pytorch_eager" in _line(result)


def test_weights_of_another_model_are_no_baseline(tmp_path: Path) -> None:
    other = copytree(shipped_folder(), tmp_path / "weights")
    config = other / "config.json"
    config.write_text(config.read_text() + "\n")
    result = run(f"--json={tmp_path / 'x'}", f"--weights={other}")
    assert result.exit_code == 1
    assert "name the weights that it was exported from" in _line(result)


def test_a_result_that_could_not_be_kept_is_not_measured(tmp_path: Path) -> None:
    result = run(f"--json={tmp_path / 'none' / 'x'}")
    assert result.exit_code == 1
    assert "--json: there is no folder" in _line(result)


def _line(result: Result) -> str:
    """What was printed, without the terminal's line breaks."""
    return " ".join(result.output.split())
