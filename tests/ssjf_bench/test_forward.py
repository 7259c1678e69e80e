from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from ssjf_bench.forward import MIN_RUNS, ForwardError, Ids, bare_onnxruntime, measure
from tests.predictor_svc.small_model import Graph, write_graph

CPU = "CPUExecutionProvider"


def test_every_run_gets_other_prompts_of_the_size_asked_for() -> None:
    seen = []

    def forward(ids: Ids, mask: Ids) -> Any:
        assert ids.shape == mask.shape == (4, 16)
        assert mask.all()
        seen.append(ids.tobytes())
        return np.zeros((4, 2), dtype=np.float32)

    found = measure(forward, batch=4, tokens=16, seconds=0.01)
    assert len(set(seen)) == len(seen) > found.calls


def test_a_slow_network_is_run_a_few_times_all_the_same() -> None:
    def forward(ids: Ids, mask: Ids) -> Any:
        time.sleep(0.01)
        return np.zeros((1, 1), dtype=np.float32)

    found = measure(forward, batch=1, tokens=2, seconds=0.001)
    assert found.calls == MIN_RUNS
    assert found.p50_ms >= 10


def test_a_network_that_gives_nan_is_not_measured() -> None:
    def forward(ids: Ids, mask: Ids) -> Any:
        return np.full((1, 1), np.nan, dtype=np.float32)

    with pytest.raises(ForwardError, match="not finite"):
        measure(forward, batch=1, tokens=2, seconds=0.001)


def test_bare_onnxruntime_runs_the_graph(tmp_path: Path) -> None:
    write_graph(tmp_path / "graph.onnx", 8, Graph(value=2.5))
    forward = bare_onnxruntime(tmp_path / "graph.onnx", CPU)
    ones = np.ones((3, 5), dtype=np.int32)
    np.testing.assert_array_equal(forward(ones, ones), np.full((3, 8), 2.5, np.float32))


def test_a_provider_that_is_not_to_be_had_is_no_measurement(tmp_path: Path) -> None:
    write_graph(tmp_path / "graph.onnx", 8, Graph())
    with pytest.raises(ForwardError, match="no ROCMExecutionProvider"):
        bare_onnxruntime(tmp_path / "graph.onnx", "ROCMExecutionProvider")
