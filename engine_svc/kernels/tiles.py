"""Which kernel multiplies how many rows with which weight: the one place that chooses.

A joined kernel saves launches and wins while reading the weight is most of the work;
beyond that cuBLAS wins. The figures were found by measurement on an H100 (see
docs/engine.md). Called by `cuda_ops`.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Tile:
    """How a joined kernel cuts its work."""

    rows: int
    """Rows of a program; 1: the kernel without tensor cores."""
    out: int
    """Output features of a program."""
    inner: int
    """Input features that it reads at once."""
    warps: int
    stages: int
    """Reads that are under way at once."""
    ahead: int = 2048
    """Numbers of each weight row that are asked for while the predecessor still runs."""


SMALL_WEIGHT = 2**21
"""Numbers in a weight of a small model: there the launch, not the reading, is the cost."""


def tile_for(rows: int, out: int, inner: int) -> Tile | None:
    """The tile of a joined kernel for rows [rows, inner] and `out` features; None: cuBLAS."""
    if rows == 1:
        return _one_row(out, inner)
    step = _step(inner)
    if step < 64:
        return None
    if out * inner <= SMALL_WEIGHT:
        return _small(rows, step)
    return _large(rows, step)


def _one_row(out: int, inner: int) -> Tile:
    if out * inner <= SMALL_WEIGHT:
        return Tile(1, 4, 1024, warps=4, stages=1)
    return Tile(1, 8, 1024 if inner % 1024 == 0 else 512, warps=8, stages=1)


def _small(rows: int, step: int) -> Tile | None:
    if rows <= 32:
        return Tile(16 if rows <= 16 else 32, 16, step, warps=4, stages=3)
    if rows <= 256:
        return Tile(64, 32, min(step, 64), warps=4, stages=4)
    return None


def _large(rows: int, step: int) -> Tile | None:
    if rows <= 16:
        return Tile(16, 32, step, warps=4, stages=4)
    if rows <= 64:
        return Tile(32 if rows <= 32 else 64, 64, min(step, 128), warps=4, stages=4)
    return None


def _step(inner: int) -> int:
    """The largest power of two up to 256 that divides `inner`."""
    return min(inner & -inner, 256)
