"""How a joined kernel may cut its work, and which cuts are worth a trial.

Called by `choice`, which measures them. The candidates are what an H100 leaves standing
(see docs/engine.md): plain sums win for a row or few, a tile of tensor cores for more, as
long as the weight is small; a large one is cuBLAS's from the second row on.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


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
    overlap: bool = False
    """Whether its programs are placed while the predecessor still runs."""
    ahead: int = 0
    """With `overlap`: numbers of each weight row that are asked for meanwhile."""


SMALL_WEIGHT: Final = 2**21
"""Numbers in a weight of a small model: there the launch, not the reading, is the cost."""

FEW_ROWS: Final = 4
"""So many rows read a small weight again and again, from L2, sooner than tiles do."""

BUCKETS: Final = (8, 16, 32, 64, 128, 256)
"""Row counts for which tiles are tried; others take the next larger one's choice."""


def row_tile(rows: int, out: int, inner: int) -> Tile | None:
    """The tile of the kernel without tensor cores, for rows that it is good for."""
    if out * inner <= SMALL_WEIGHT and rows <= FEW_ROWS:
        return Tile(1, 4, 1024, warps=4, stages=1, overlap=True, ahead=2048)
    if rows == 1:
        return Tile(1, 8, 1024 if inner % 1024 == 0 else 512, warps=8, stages=1)
    return None


def candidates(bucket: int, out: int, inner: int) -> tuple[Tile, ...]:
    """Tiles worth a trial for up to `bucket` rows; none where cuBLAS wins anyway."""
    if out * inner > SMALL_WEIGHT or inner % 64:
        return ()
    return _TILES[bucket]


_TILES: Final = {
    8: (Tile(16, 16, 256, 4, 3), Tile(16, 16, 64, 4, 3)),
    16: (Tile(16, 16, 256, 4, 3), Tile(16, 16, 64, 4, 3), Tile(16, 32, 128, 4, 4)),
    32: (Tile(32, 16, 256, 4, 3), Tile(32, 16, 64, 4, 3), Tile(32, 32, 128, 4, 4)),
    64: (Tile(64, 16, 128, 4, 4), Tile(64, 32, 64, 4, 4), Tile(32, 32, 128, 4, 4)),
    128: (Tile(64, 32, 64, 4, 4), Tile(64, 32, 128, 4, 3), Tile(64, 64, 64, 4, 4)),
    256: (Tile(64, 32, 64, 4, 4), Tile(64, 64, 64, 4, 4), Tile(128, 64, 64, 8, 4)),
}
