"""What one step of the engine runs, as plain values.

Pure. Made by `scheduler`, carried by the engine loop, run by `runner`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from engine_svc.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Chunk:
    """Tokens [start, start + tokens) of a sequence, to be read."""

    sequence: Sequence
    start: int
    tokens: int
    last: bool
    """Whether all of it has been read then, and a token is sampled."""


class Cell(NamedTuple):
    """An entry of the block table that has changed."""

    place: int
    column: int
    block: int


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step; a token is sampled for each last chunk and each decode row."""

    chunks: tuple[Chunk, ...]
    """What is read, in this order before the decode rows."""
    decode: tuple[Sequence, ...]
    """Sequences that go on by one token; the same object as long as they are the same."""
    started: tuple[Sequence, ...] = ()
    """Sequences that have got their place in this step."""
    cells: tuple[Cell, ...] = ()
    """What changes in the block table before the step."""
    preempted: int = 0
    """Sequences that gave way when this step was put together."""

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to run."""
        return not (self.chunks or self.decode)

    @property
    def sampled(self) -> tuple[Sequence, ...]:
        """Sequences that get a token, in the order of the results."""
        return tuple(chunk.sequence for chunk in self.chunks if chunk.last) + self.decode
