"""The ONNX Runtime session, on the execution provider that was asked for.

Owns the choice of provider and its check after creation: ONNX Runtime falls back to the
CPU without a word, this never does. Knows token ids and logits, nothing of prompts or
grpc. Called by `pipeline`, in a thread (`run` releases the GIL).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from predictor_svc.batcher import group_by_length
from predictor_svc.lengths import Floats

Provider = Literal["auto", "cpu", "cuda"]
CPU = "CPUExecutionProvider"
CUDA = "CUDAExecutionProvider"


class SessionError(Exception):
    """No session on the provider that was asked for, or a graph that cannot be loaded."""


class Session:
    """Runs the proxy model on token ids."""

    def __init__(self, graph: Path, provider: Provider, threads: int) -> None:
        """Loads `graph`; `threads` inside an operator on CPU, 0 for one a core.

        Raises SessionError where the provider is not to be had; only "auto" takes another,
        and says so in `fell_back`.
        """
        wanted = _wanted(provider)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        # Idle workers would spin on cores that an engine on the same machine needs.
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        options.log_severity_level = 3
        providers = [CUDA, CPU] if wanted == CUDA else [CPU]
        try:
            self._session: Any = onnxruntime.InferenceSession(graph, options, providers=providers)
        except Exception as error:  # ONNX Runtime's exceptions share no public base
            raise SessionError(f"{graph}: {_first_line(error)}") from error
        self.provider: str = self._session.get_providers()[0]
        """Execution provider in use."""
        self.fell_back: bool = self.provider != wanted
        """Whether "auto" had to do without a CUDA that ONNX Runtime was built for."""
        if self.fell_back and provider != "auto":
            raise SessionError(
                f"asked for {wanted}, ONNX Runtime chose {self.provider}: CUDA needs the package "
                "onnxruntime-gpu, a driver and CUDA libraries that fit it; or set provider=cpu"
            )

    def run(self, ids: Sequence[Sequence[int]]) -> Floats:
        """(n, bins) logits of n prompts, in their order; run in groups of similar length."""
        parts: list[tuple[tuple[int, ...], NDArray[np.float32]]] = []
        for group in group_by_length([len(row) for row in ids]):
            padded, mask = pad([ids[row] for row in group.rows], group.padded_tokens)
            feeds = {"input_ids": padded, "attention_mask": mask}
            parts.append((group.rows, self._session.run(["logits"], feeds)[0]))
        logits = np.empty((len(ids), parts[0][1].shape[1]))
        for rows, values in parts:
            logits[list(rows)] = values
        return logits


def pad(ids: Sequence[Sequence[int]], length: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Ids and mask, (n, length) int64, padded with 0."""
    padded = np.zeros((len(ids), length), dtype=np.int64)
    mask = np.zeros_like(padded)
    for index, row in enumerate(ids):
        padded[index, : len(row)] = row
        mask[index, : len(row)] = 1
    return padded, mask


def _wanted(provider: Provider) -> str:
    """The provider's full name. Raises SessionError where the installed build lacks it."""
    has_cuda = CUDA in onnxruntime.get_available_providers()
    if provider == "cuda" and not has_cuda:
        raise SessionError(
            "provider=cuda, but this ONNX Runtime has no CUDA: install the extra `gpu` "
            "(onnxruntime-gpu) in place of `cpu`"
        )
    if provider == "cpu" or not has_cuda:
        return CPU
    # CUDA's libraries lie in PyTorch's or NVIDIA's packages, where the loader does not look.
    onnxruntime.preload_dlls()
    return CUDA


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
