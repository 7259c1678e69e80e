"""Runs in memory of the device: inputs and outputs that stay where they are, a shape each.

Owns the prepared shapes (batch bucket x length bucket) and, on CUDA, one captured graph a
shape: replaying it launches all kernels at once, where a small batch spends most of its
time launching. Called by `session` alone, in one thread: ONNX Runtime keeps captured graphs
for the thread that captured them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from predictor_svc.network import INPUTS, NO_CAPTURE, Network, fill, pad, run_options

BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64)
"""Batch sizes that shapes are prepared for; smaller batches are filled up with idle rows."""


@dataclass(frozen=True, slots=True)
class _Shape:
    """Buffers of one shape, here and on the device, and how to run them."""

    host: tuple[NDArray[Any], NDArray[Any]]
    inputs: tuple[Any, Any]
    output: Any
    binding: Any
    options: Any


class DeviceForward:
    """Runs prepared shapes bound to the device, others from host arrays."""

    def __init__(self, network: Network, device: str, captures: bool) -> None:
        """`device` as ONNX Runtime names it: cuda (or cpu, where nothing is captured)."""
        self._network = network
        self._device = device
        self._captures = captures
        self._shapes: dict[tuple[int, int], _Shape] = {}
        self._batches: dict[int, tuple[int, ...]] = {}  # length -> batch sizes, rising

    def prepare(self, batch: int, tokens: int) -> None:
        """Allocates a shape and runs it once; where graphs are captured, captures it."""
        shape = self._allocate(batch, tokens)
        self._run(shape, [[0] * tokens] * batch)
        self._shapes[batch, tokens] = shape
        self._batches[tokens] = tuple(sorted({*self._batches.get(tokens, ()), batch}))

    def __call__(self, ids: Sequence[Sequence[int]], tokens: int) -> NDArray[np.floating]:
        """(n, width) outputs of n rows, padded to `tokens`."""
        sizes = self._batches.get(tokens, ())
        batch = next((size for size in sizes if size >= len(ids)), None)
        if batch is None:
            return self._network.run_host(*pad(ids, tokens, self._network.input_type))
        return self._run(self._shapes[batch, tokens], ids)[: len(ids)]

    def _run(self, shape: _Shape, ids: Sequence[Sequence[int]]) -> NDArray[np.floating]:
        fill(ids, *shape.host)
        for value, array in zip(shape.inputs, shape.host, strict=True):
            value.update_inplace(array)
        self._network.session.run_with_iobinding(shape.binding, shape.options)
        outputs: NDArray[np.floating] = shape.output.numpy()
        return outputs

    def _allocate(self, batch: int, tokens: int) -> _Shape:
        network = self._network
        host = pad([[]] * batch, tokens, network.input_type)
        values = [self._value((batch, tokens), network.input_type) for _ in INPUTS]
        output = self._value((batch, network.width), network.output_type)
        binding = network.session.io_binding()
        for name, value in zip(INPUTS, values, strict=True):
            binding.bind_ortvalue_input(name, value)
        binding.bind_ortvalue_output(network.output, output)
        graph_id = str(len(self._shapes) + 1) if self._captures else NO_CAPTURE
        return _Shape(host, (values[0], values[1]), output, binding, run_options(graph_id))

    def _value(self, shape: tuple[int, int], kind: type[np.generic]) -> Any:
        return onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, kind, self._device, 0)
