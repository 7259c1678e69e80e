"""Prepared shapes: on the CPU here, where nothing is captured; on CUDA in `test_session`."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto

from predictor_svc.device import DeviceForward
from predictor_svc.network import Network, network_of, pad
from tests.predictor_svc.small_model import Graph, write_graph

ROWS = [[101, *range(2000, 2000 + n), 102] for n in (3, 9, 1, 14)]


def network(path: Path, graph: Graph = Graph()) -> Network:  # noqa: B008 (frozen)
    write_graph(path, 8, graph)
    return network_of(onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"]))


def prepared(made: Network) -> DeviceForward:
    device = DeviceForward(made, "cpu", captures=False)
    device.prepare(2, 16)
    device.prepare(4, 16)
    return device


@pytest.mark.parametrize("kind", [TensorProto.INT64, TensorProto.INT32])
@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_bound_outputs_equal_those_of_a_plain_run(tmp_path: Path, count: int, kind: int) -> None:
    made = network(tmp_path / "graph", Graph(inputs=kind))
    bound = prepared(made)(ROWS[:count], 16)
    np.testing.assert_allclose(bound, made.run_host(*pad(ROWS[:count], 16, made.input_type)))


def test_nothing_of_the_batch_before_stays(tmp_path: Path) -> None:
    device = prepared(network(tmp_path / "graph"))
    alone = device(ROWS[:1], 16).copy()
    device([[5] * 16] * 2, 16)
    np.testing.assert_array_equal(device(ROWS[:1], 16), alone)


@pytest.mark.parametrize(("count", "tokens"), [(5, 16), (2, 32)])
def test_a_shape_that_was_not_prepared_runs_as_well(
    tmp_path: Path, count: int, tokens: int
) -> None:
    made = network(tmp_path / "graph")
    rows = (ROWS * 2)[:count]
    expected = made.run_host(*pad(rows, tokens, made.input_type))
    np.testing.assert_allclose(prepared(made)(rows, tokens), expected)


def test_a_graph_with_float16_outputs_is_read(tmp_path: Path) -> None:
    made = network(tmp_path / "graph", Graph(outputs=TensorProto.FLOAT16))
    outputs = prepared(made)(ROWS, 16)
    assert outputs.dtype == np.float16
    np.testing.assert_array_equal(outputs, made.run_host(*pad(ROWS, 16, made.input_type)))


def test_a_graph_of_other_types_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="gives float32 or float16"):
        network(tmp_path / "graph", Graph(outputs=TensorProto.DOUBLE))
