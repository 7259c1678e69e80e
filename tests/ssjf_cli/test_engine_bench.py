"""`ssjf bench engine` around a tiny model, and what it refuses."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from engine_svc.assembly import Assembled, build
from engine_svc.config import EngineSettings
from engine_svc.model import shapes
from engine_svc.model.config import ModelConfig, Rope
from engine_svc.model.loading import load
from ssjf_bench.engine_cases import Case
from ssjf_bench.engine_load import ServeFigures
from ssjf_cli import bench, bench_engine, engine_bench, engine_profile, engine_transformers
from ssjf_cli.engine_bench import EngineBenchError, Measured

CASE = Case("small", (5, 1, 9))
TINY = ModelConfig(
    family="llama",
    vocabulary_size=600,
    layers=2,
    hidden_size=32,
    intermediate_size=64,
    heads=4,
    kv_heads=2,
    head_size=8,
    norm_eps=1e-5,
    context_tokens=512,
    tied_embeddings=True,
    rope=Rope(10_000.0),
)


@pytest.fixture
def tiny_shape(monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(shapes, "SHAPES", {"tiny": TINY})
    monkeypatch.setattr(engine_transformers, "SHAPES", {"tiny": TINY})
    return "tiny"


@pytest.fixture
def assembled(tiny_shape: str) -> Assembled:
    loaded = load(f"shape:{tiny_shape}", device=torch.device("cpu"), dtype=torch.float32)
    return build(EngineSettings(device="cpu", kv_tokens=2048), loaded)


def test_a_case_runs_to_its_last_token(assembled: Assembled) -> None:
    for _ in range(2):
        measured = engine_bench.run(assembled, CASE)
        assert measured.seconds > 0
        assert measured.steps == 9
        assert measured.decode_step_ms is not None


def test_a_request_that_fails_ends_the_measurement(
    assembled: Assembled, monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(*_: object) -> None:
        raise torch.OutOfMemoryError

    runner: Any = assembled.engine._runner
    monkeypatch.setattr(runner.forward, "logits", exhausted)
    with pytest.raises(EngineBenchError, match="3 failed: out of memory"):
        engine_bench.run(assembled, CASE)


def test_transformers_generate_runs_the_same_case(tiny_shape: str) -> None:
    model = engine_transformers.build(tiny_shape, "cpu", torch.float32)
    assert model.config.num_hidden_layers == 2
    assert engine_transformers.seconds(model, CASE, at_once=2) > 0


def test_a_profile_names_what_takes_the_time() -> None:
    def run() -> Measured:
        began_s = time.perf_counter()
        left = torch.ones(64, 64)
        for _ in range(10):
            left = left @ left
        return Measured(time.perf_counter() - began_s, 10, None)

    found = engine_profile.profile(run)
    assert found["steps"] == 10
    assert "aten::mm" in {row["kernel"] for row in found["kernels"]}


def test_a_row_has_the_median_of_its_measurements() -> None:
    measured = [Measured(seconds, 4, 1.5) for seconds in (3.0, 1.0, 2.0)]
    row = engine_bench._row(CASE, "in-process", measured)
    assert (row["tokens_per_s"], row["step_ms"], row["seconds"]) == (7.5, 500.0, 2.0)


def test_a_row_of_a_served_engine_says_what_the_way_to_it_took() -> None:
    figures = [
        ServeFigures(
            sequences=3,
            tokens=15,
            seconds=seconds,
            tokens_per_s=15 / seconds,
            steps=9,
            step_ms=0.5,
            steps_s=0.9 * seconds,
            messages=8,
            first_token_ms=2.0,
            client_cpu_s=0.1,
        )
        for seconds in (3.0, 1.0, 2.0)
    ]
    row = engine_bench._served_row(CASE, figures)
    assert (row["through"], row["seconds"], row["steps"], row["messages"]) == ("serve", 2.0, 9, 8)
    assert (row["steps_s"], row["decode_step_ms"]) == (1.8, 0.5)


def test_an_unknown_case_is_refused(tmp_path: Path) -> None:
    options = ["engine", f"--json={tmp_path / 'out.json'}", "--cases=batch-1,batch-7"]
    result = CliRunner().invoke(bench.app, options)
    assert result.exit_code == 1
    assert "no batch-7; there are batch-1" in result.output


def test_the_table_has_a_line_for_each_case() -> None:
    row = engine_bench._row(CASE, "serve", [Measured(2.0, 0, None)])
    table = bench_engine.engine_table(
        {"shape": "tiny", "device": "cpu", "dtype": "float32", "results": [row]}
    )
    assert table.row_count == 1
