"""A loaded graph as a network: its inputs and output by name and type, and padded tensors.

Owns what a graph must look like (ids and mask in, one matrix out) and the host-side layout
of a group of rows. Called by `session` and `device`, which run it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import DTypeLike, NDArray

INPUTS = ("input_ids", "attention_mask")
NO_CAPTURE = "-1"
"""Value of the run option `gpu_graph_id` that keeps a run out of capture and replay."""
_INTEGERS: dict[str, type[np.integer]] = {"tensor(int64)": np.int64, "tensor(int32)": np.int32}
_FLOATS: dict[str, type[np.floating]] = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


@dataclass(frozen=True, slots=True)
class Network:
    """An ONNX Runtime session, and how to feed it."""

    session: Any
    input_type: type[np.integer]
    output: str
    output_type: type[np.floating]
    width: int
    """Numbers a prompt."""

    def run_host(self, ids: NDArray[np.integer], mask: NDArray[np.integer]) -> NDArray[np.floating]:
        """(n, length) ids and mask to (n, width) outputs, in host memory, never captured."""
        feeds = dict(zip(INPUTS, (ids, mask), strict=True))
        outputs: NDArray[np.floating] = self.session.run(
            [self.output], feeds, run_options(NO_CAPTURE)
        )[0]
        return outputs


def network_of(session: Any) -> Network:
    """Reads the graph's inputs and output. Raises ValueError where they are others."""
    inputs = {each.name: each.type for each in session.get_inputs()}
    outputs = session.get_outputs()
    if set(inputs) != set(INPUTS) or len(outputs) != 1:
        raise ValueError(f"a predictor's graph has the inputs {INPUTS} and one output")
    types = set(inputs.values())
    (output,) = outputs
    width = output.shape[-1] if len(output.shape) == 2 else None
    if len(types) != 1 or not types <= set(_INTEGERS) or output.type not in _FLOATS:
        raise ValueError("a predictor's graph takes int32 or int64 and gives float32 or float16")
    if not isinstance(width, int):
        raise ValueError("a predictor's graph gives a matrix whose width is known")  # noqa: TRY004
    return Network(session, _INTEGERS[types.pop()], output.name, _FLOATS[output.type], width)


def run_options(gpu_graph_id: str) -> Any:
    """Options of a run that is captured and replayed under this number; the CPU ignores it."""
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("gpu_graph_id", gpu_graph_id)
    return options


def pad(
    ids: Sequence[Sequence[int]], tokens: int, kind: DTypeLike
) -> tuple[NDArray[Any], NDArray[Any]]:
    """Ids and mask, (n, tokens) of type `kind`, padded with 0."""
    padded = np.empty((len(ids), tokens), dtype=kind)
    mask = np.empty_like(padded)
    fill(ids, padded, mask)
    return padded, mask


def fill(ids: Sequence[Sequence[int]], padded: NDArray[Any], mask: NDArray[Any]) -> None:
    """Writes the rows into the first of larger matrices; those below are rows of one 0."""
    padded[:] = 0
    for index, row in enumerate(ids):  # packed: half the time of an assignment of a list
        struct.pack_into(f"{len(row)}{padded.dtype.char}", padded[index], 0, *row)
    lengths = np.ones(len(padded), dtype=np.int64)
    lengths[: len(ids)] = [len(row) for row in ids]
    np.less(np.arange(padded.shape[1]), lengths[:, None], out=mask, casting="unsafe")
