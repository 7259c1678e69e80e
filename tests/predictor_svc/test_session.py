from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest

from predictor_svc.loaded import load
from predictor_svc.session import CPU, CUDA, Provider, Session, SessionError, SessionOptions
from tests.predictor_svc.small_model import Graph, load_options, write_graph, write_model

MAX_TOKENS = 40
ROWS = [[101, *range(2000, 2000 + n), 102] for n in (28, 0, 15, 3, 38, 1, 14)]


@pytest.fixture
def graph(tmp_path: Path) -> Path:
    write_graph(tmp_path / "graph.onnx", 8, Graph())
    return tmp_path / "graph.onnx"


def session(graph: Path, provider: Provider = "cpu", **options: Any) -> Session:
    settings = SessionOptions(provider=provider, threads=1, max_batch=6, **options)
    return Session(graph, settings, MAX_TOKENS)


def test_cpu_is_used_when_asked_for(graph: Path) -> None:
    assert session(graph).provider == CPU


def test_rows_come_back_in_order_whatever_their_length(graph: Path) -> None:
    made = session(graph)
    made.warm_up()
    together = made.run(ROWS)
    alone = np.concatenate([made.run([row]) for row in ROWS])
    assert together.dtype == np.float32
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_cuda_without_cuda_is_refused(graph: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CPU])
    with pytest.raises(SessionError, match="provider=cuda, but this ONNX Runtime has no CUDA"):
        session(graph, "cuda")


@pytest.fixture
def cuda_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """ONNX Runtime lists CUDA, but creating it fails: the session it returns is on the CPU."""

    def create(path: Path, options: object, providers: list[Any]) -> object:
        if providers != [CPU]:
            assert [providers[0][0], providers[1]] == [CUDA, CPU]
        return real(path, options, providers=[CPU])

    real = onnxruntime.InferenceSession
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [CUDA, CPU])
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "InferenceSession", create)


def test_cuda_that_falls_back_is_refused(graph: Path, cuda_that_fails: None) -> None:
    with pytest.raises(SessionError, match=f"asked for {CUDA}, ONNX Runtime chose {CPU}"):
        session(graph, "cuda")


def test_auto_that_falls_back_says_so(graph: Path, cuda_that_fails: None) -> None:
    made = session(graph, "auto")
    assert made.fell_back
    assert made.provider == CPU
    assert not made.captures


def test_a_model_that_falls_back_runs_what_suits_the_cpu(
    tmp_path: Path, cuda_that_fails: None
) -> None:
    write_model(tmp_path, "revision-1")
    model = load(load_options(tmp_path, "auto"))
    model.close()
    assert model.fell_back
    assert (model.session.provider, model.precision) == (CPU, "fp32")


def test_a_broken_graph_is_one_line(tmp_path: Path) -> None:
    broken = tmp_path / "model.onnx"
    broken.write_bytes(b"not a graph")
    with pytest.raises(SessionError, match=r"^[^\n]*model\.onnx: [^\n]+$"):
        session(broken)


# On CUDA: everything of one session in one thread, which here is the test's.


@pytest.mark.gpu
@pytest.mark.parametrize("cuda_graphs", [True, False])
def test_cuda_is_really_used_and_agrees_with_the_cpu(graph: Path, cuda_graphs: bool) -> None:
    made = session(graph, "cuda", cuda_graphs=cuda_graphs)
    assert made.provider == CUDA
    assert made.captures == cuda_graphs
    plain = made.run(ROWS)  # before shapes are prepared
    made.warm_up()
    expected = session(graph).run(ROWS)
    np.testing.assert_allclose(plain, expected, atol=1e-3)
    np.testing.assert_allclose(made.run(ROWS), expected, atol=1e-3)


@pytest.mark.gpu
def test_replayed_graphs_give_what_plain_runs_give(graph: Path) -> None:
    replayed, plain = session(graph, "cuda"), session(graph, "cuda", cuda_graphs=False)
    assert replayed.captures
    replayed.warm_up()
    draw = np.random.default_rng(0)
    for count in (1, 2, 3, 6, 7, 13, 1):  # 7 and 13 are larger than any prepared batch
        rows = [draw.integers(1, 30_000, size=draw.integers(1, 41)).tolist() for _ in range(count)]
        np.testing.assert_allclose(replayed.run(rows), plain.run(rows), atol=1e-4)


@pytest.mark.gpu
def test_an_exported_model_replays_on_cuda_what_it_computes_on_the_cpu(
    tiny_model_dir: Path,
) -> None:
    on_cuda, on_cpu = load(load_options(tiny_model_dir, "cuda")), load(load_options(tiny_model_dir))
    assert on_cuda.session.provider == CUDA
    assert on_cuda.session.captures
    ids = [[101, 2000, 102], [101, *range(3000, 3020), 102], [101, 2000, 102]]
    expected = on_cpu.worker.submit(on_cpu.run, ids).result()
    for _ in range(2):
        outputs = on_cuda.worker.submit(on_cuda.run, ids).result()
        np.testing.assert_allclose(outputs, expected, atol=5e-2)
    on_cuda.close()
    on_cpu.close()
