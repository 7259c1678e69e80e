"""How long a network alone takes: no service, no tokenising, from host arrays to host arrays.

Owns the timing loop and bare ONNX Runtime; another runtime is any function from ids and
mask to outputs. Knows no service: what a service adds is the difference to its own times.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from ssjf_bench.latency import Latency, latency

Ids = NDArray[np.int32]
Forward = Callable[[Ids, Ids], NDArray[np.float32]]
WARM_UP_SHARE = 0.25
MIN_RUNS = 3
WORDS = 1000
"""Ids are drawn below this: every vocabulary has as many."""


class ForwardError(Exception):
    """The network cannot be run as asked."""


def bare_onnxruntime(graph: Path, provider: str) -> Forward:
    """`session.run` on the named execution provider, CPU threads set up as the predictor's are.

    Raises ForwardError where ONNX Runtime has none, or takes another one.
    """
    if provider not in onnxruntime.get_available_providers():
        raise ForwardError(f"this ONNX Runtime has no {provider}")
    if provider == "CUDAExecutionProvider":
        onnxruntime.preload_dlls()
    options = onnxruntime.SessionOptions()
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    session: Any = onnxruntime.InferenceSession(graph, options, providers=[provider])
    if session.get_providers()[0] != provider:
        raise ForwardError(f"asked for {provider}, ONNX Runtime chose {session.get_providers()[0]}")
    names = [each.name for each in session.get_inputs()]
    kinds = [
        np.int64 if each.type == "tensor(int64)" else np.int32 for each in session.get_inputs()
    ]

    def forward(ids: Ids, mask: Ids) -> NDArray[np.float32]:
        arrays = [each.astype(kind) for each, kind in zip((ids, mask), kinds, strict=True)]
        outputs: NDArray[np.float32] = session.run(None, dict(zip(names, arrays, strict=True)))[0]
        return outputs

    return forward


def measure(forward: Forward, batch: int, tokens: int, seconds: float) -> Latency:
    """Times of `forward` on `batch` prompts of `tokens` random ids, one run after the other.

    Raises ForwardError where an output is not finite.
    """
    draw = np.random.default_rng(0)
    mask = np.ones((batch, tokens), dtype=np.int32)

    def run_once() -> float:
        ids = draw.integers(0, WORDS, size=(batch, tokens), dtype=np.int32)
        start = time.perf_counter()
        outputs = forward(ids, mask)
        took_s = time.perf_counter() - start
        if not np.isfinite(outputs).all():
            raise ForwardError("an output of the network is not finite")
        return took_s

    _repeat(run_once, WARM_UP_SHARE * seconds, at_least=1)
    return latency(_repeat(run_once, seconds, at_least=MIN_RUNS))


def _repeat(run_once: Callable[[], float], seconds: float, at_least: int) -> list[float]:
    times_s: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times_s) < at_least:
        times_s.append(run_once())
    return times_s
