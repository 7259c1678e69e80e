"""Arrival traces: CSV files with `arrival_s`, `input_tokens` and `output_tokens`.

Owns reading them and undoing coarse clocks. Knows no load and no policy. Called by
`arrivals`; the file's source and licence are its owner's.
"""

from __future__ import annotations

import csv
import gzip
import itertools
import random
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final, TypeVar

Parsed = TypeVar("Parsed")
COLUMNS: Final = ("arrival_s", "input_tokens", "output_tokens")
COARSE_STEP_S: Final = 0.5
"""A clock that ticks no finer than this put arrivals together that were apart."""
_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError, csv.Error)


class TraceError(Exception):
    """A trace cannot be used; the message names file and line."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests as they came, one entry a request in each field."""

    arrivals_s: tuple[float, ...]
    """Seconds, never falling, as the file has them."""
    input_tokens: tuple[int, ...]
    """Length of the prompt, at least 1."""
    output_tokens: tuple[int, ...]
    """Length of the answer, at least 1."""


def read_trace(path: Path) -> Trace:
    """The requests of a .csv or .csv.gz file, in order of arrival.

    Raises TraceError where it cannot be read, lacks a column, holds no number where one
    belongs, has fewer than two requests or does not rise.
    """
    rows = list(_rows(path))
    if len(rows) < 2:
        raise TraceError(f"{path}: fewer than two requests")
    arrivals_s, inputs, outputs = zip(*rows, strict=True)
    if list(arrivals_s) != sorted(arrivals_s) or arrivals_s[0] == arrivals_s[-1]:
        raise TraceError(f"{path}: arrival_s does not rise")
    return Trace(arrivals_s, inputs, outputs)


def without_first(trace: Trace, count: int) -> Trace:
    """The requests after the first `count`. Raises ValueError where fewer than two are left."""
    if not 0 <= count <= len(trace.arrivals_s) - 2:
        raise ValueError(f"a trace of {len(trace.arrivals_s)} requests, {count} to leave out")
    return Trace(trace.arrivals_s[count:], trace.input_tokens[count:], trace.output_tokens[count:])


def _rows(path: Path) -> Iterator[tuple[float, int, int]]:
    return (row for _, row in table(path, COLUMNS, _row))


def table(
    path: Path, columns: Sequence[str], parse: Callable[[dict[str, str]], Parsed]
) -> Iterator[tuple[int, Parsed]]:
    """What `parse` makes of each row of a CSV file that has these columns, by line number.

    Raises TraceError, naming the line, where a column is missing or `parse` raises ValueError
    or TypeError (a row cut short has None).
    """
    with opened(path) as lines:
        reader = csv.DictReader(lines)
        missing = [name for name in columns if name not in (reader.fieldnames or ())]
        if missing:
            raise TraceError(f"{path}:1: no column {', '.join(missing)}")
        for row in reader:
            try:
                yield reader.line_num, parse(row)
            except (TypeError, ValueError) as error:
                raise TraceError(f"{path}:{reader.line_num}: {error}") from error


@contextmanager
def opened(path: Path) -> Iterator[IO[str]]:
    """Text, through gzip where the name ends in .gz; TraceError where it cannot be read."""
    try:
        with _open(path) as lines:
            yield lines
    except _UNREADABLE as error:
        raise TraceError(f"{path}: {error}") from error


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def write_lines(path: Path, lines: Sequence[str]) -> None:
    """A text file, gzipped where the name ends in .gz; the same lines are the same bytes.

    Raises TraceError where it cannot be written.
    """
    content = ("\n".join(lines) + "\n").encode()
    try:
        path.write_bytes(gzip.compress(content, mtime=0) if path.suffix == ".gz" else content)
    except OSError as error:
        raise TraceError(f"{path}: {error.strerror}") from error


def _row(row: dict[str, str]) -> tuple[float, int, int]:
    arrival_s = float(row["arrival_s"])
    if not 0 <= arrival_s < float("inf"):
        raise ValueError("arrival_s is not a time")
    # An empty prompt or answer still takes its place for a step.
    return arrival_s, max(1, int(row["input_tokens"])), max(1, int(row["output_tokens"]))


def spread_coarse_steps(arrivals_s: Sequence[float], seed: int) -> list[float]:
    """The arrivals, those of a coarse clock spread evenly at random over their step.

    Some traces keep time in steps of seconds: replayed as they are, every step would be a
    burst. The step is the smallest distance of two different times; below COARSE_STEP_S,
    or with hardly two requests to a time, the clock is fine and nothing changes.
    """
    times = sorted(set(arrivals_s))
    step_s = min((b - a for a, b in itertools.pairwise(times)), default=0.0)
    if step_s < COARSE_STEP_S or len(arrivals_s) < 1.5 * len(times):
        return list(arrivals_s)
    draw = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    return sorted(arrival_s + draw.random() * step_s for arrival_s in arrivals_s)
