"""Which kernel multiplies how many rows with which weight: the one place that chooses.

Some choices are fixed by rule; for small weights and up to 256 rows the candidates of
`tiles` and cuBLAS are timed once, when a model is built, on its own weights. That takes a
second or two and never happens while serving. Called by `cuda_ops`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from engine_svc.kernels.tiles import BUCKETS, Tile, candidates, row_tile

WORTH_IT = 0.97
"""Share of cuBLAS's time that a tile must not exceed: a tie is cuBLAS's."""


class DoesNotFit(RuntimeError):
    """A tile needs more of the device than it has."""


Trial = Callable[[Tile | None], Callable[[], object]]
"""Of a tile, or cuBLAS: the work of all layers."""


class Choice:
    """The tiles of one product of a model."""

    def __init__(self, out: int, inner: int) -> None:
        self._out, self._inner = out, inner
        self._found: dict[int, Tile | None] = {}

    def tile(self, rows: Tensor) -> Tile | None:
        """What multiplies these rows [n, inner]; None: cuBLAS.

        In bf16 only: fp16 could overflow where a row is normed after its product, and fp32
        is for comparisons.
        """
        count = len(rows)
        if rows.dtype != torch.bfloat16 or count > BUCKETS[-1]:
            return None
        few = row_tile(count, self._out, self._inner)
        return few or self._found.get(_bucket(count))

    def measure(self, trial: Callable[[int], Trial]) -> None:
        """Times the candidates of every bucket; `trial` makes the work for so many rows."""
        for bucket in BUCKETS:
            tiles = candidates(bucket, self._out, self._inner)
            if tiles:
                self._found[bucket] = _fastest(tiles, trial(bucket))


def _bucket(rows: int) -> int:
    return next(bucket for bucket in BUCKETS if rows <= bucket)


def _fastest(tiles: Sequence[Tile], trial: Trial) -> Tile | None:
    best, best_ms = None, replayed_ms(trial(None)) * WORTH_IT
    for tile in tiles:
        try:
            took_ms = replayed_ms(trial(tile))
        except DoesNotFit:
            continue
        if took_ms < best_ms:
            best, best_ms = tile, took_ms
    return best


def replayed_ms(work: Callable[[], object], replays: int = 4, rounds: int = 3) -> float:
    """Milliseconds of `work` on the device under a CUDA graph, the best of some rounds."""
    graph = torch.cuda.CUDAGraph()
    stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        work()  # compiles what is to be compiled
        # Not torch.cuda.graph, which collects garbage every time.
        graph.capture_begin(capture_error_mode="thread_local")
        work()
        graph.capture_end()
        graph.replay()
        times = [_timed_ms(graph, replays) for _ in range(rounds)]
    torch.cuda.current_stream().wait_stream(stream)
    return min(times)


def _timed_ms(graph: torch.cuda.CUDAGraph, replays: int) -> float:
    began = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    ended = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
    began.record()
    for _ in range(replays):
        graph.replay()
    ended.record()
    ended.synchronize()
    return float(began.elapsed_time(ended)) / replays
