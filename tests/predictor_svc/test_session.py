from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from predictor_svc.model_dir import open_model_dir
from predictor_svc.session import CPU, CUDA, Session, SessionError


def graph(folder: Path) -> Path:
    return open_model_dir(folder).graph


def test_cpu_is_used_when_asked_for(tiny_model_dir: Path) -> None:
    assert Session(graph(tiny_model_dir), "cpu", 1).provider == CPU


def test_rows_come_back_in_order_whatever_their_length(tiny_model_dir: Path) -> None:
    session = Session(graph(tiny_model_dir), "cpu", 1)
    draw = np.random.default_rng(0)
    ids = [draw.integers(1000, 2000, size=n).tolist() for n in (30, 2, 17, 1, 32, 3)]
    together = session.run(ids)
    alone = np.concatenate([session.run([row]) for row in ids])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_cuda_without_cuda_is_refused(
    tiny_model_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(SessionError, match="provider=cuda, but this ONNX Runtime has no CUDA"):
        Session(graph(tiny_model_dir), "cuda", 1)


@pytest.fixture
def cuda_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA, but creating it fails: the session it returns is on the CPU."""

    def create(path: Path, options: object, providers: list[str]) -> object:
        assert providers == [CUDA, CPU]
        return real(path, options, providers=[CPU])

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", create)


def test_cuda_that_falls_back_is_refused(tiny_model_dir: Path, cuda_that_fails: None) -> None:
    with pytest.raises(SessionError, match=f"asked for {CUDA}, ONNX Runtime chose {CPU}"):
        Session(graph(tiny_model_dir), "cuda", 1)


def test_auto_that_falls_back_says_so(tiny_model_dir: Path, cuda_that_fails: None) -> None:
    session = Session(graph(tiny_model_dir), "auto", 1)
    assert session.fell_back
    assert session.provider == CPU


def test_a_broken_graph_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(SessionError, match=r"^[^\n]*model\.onnx: [^\n]+$"):
        Session(broken, "cpu", 1)


@pytest.mark.gpu
def test_cuda_is_really_used_and_agrees_with_the_cpu(tiny_model_dir: Path) -> None:
    session = Session(graph(tiny_model_dir), "cuda", 1)
    assert session.provider == CUDA
    ids = [[101, 2000, 102], [101, *range(3000, 3020), 102]]
    expected = Session(graph(tiny_model_dir), "cpu", 1).run(ids)
    np.testing.assert_allclose(session.run(ids), expected, atol=1e-2)
