"""ServeGen's clients (Xiang et al. 2025, arXiv 2505.09999) to one trace: a seeded sample.

What is published are no requests but, for each client of a model and each window of its day,
the rate, a distribution of gaps, and histograms of lengths. Owns reading those and the draw:
inputs and outputs are drawn apart, as the histograms say nothing of pairs. Called by
`ssjf bench convert-trace`.
"""

from __future__ import annotations

import ast
import csv
import itertools
import json
import math
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from ssjf_bench.convert_traces import Arrival
from ssjf_bench.trace import TraceError, opened

TRACE_NAME: Final = re.compile(r"chunk-(\d+)-trace\.csv")
FIELDS: Final = ("input_tokens", "output_tokens")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What to draw."""

    requests: int = 200_000
    """The first so many."""
    start_s: int = 72_000
    """From this second of the published day on."""
    seed: int = 11


@dataclass(frozen=True, slots=True)
class Window:
    """One client for some minutes."""

    start_s: int
    rate_per_s: float
    pattern: str
    """Of the gaps: Gamma or Weibull."""
    shape: float
    """Of that distribution; its scale follows from the rate."""


@dataclass(frozen=True, slots=True)
class Histogram:
    """Lengths and how often each occurs."""

    tokens: NDArray[np.int64]
    shares: NDArray[np.float64]
    """Of sum 1."""


def sample(folder: Path, wanted: Wanted) -> list[Arrival]:
    """Requests of all clients in a folder of `chunk-N-trace.csv` and `chunk-N-dataset.json`.

    A client's windows are drawn apart, from the seed, its number and the window's time, so
    that more requests change none of the first. Raises TraceError naming file and place for
    what is malformed, and where the data end before there are enough requests.
    """
    numbers = sorted(
        int(match[1]) for path in folder.glob("*") if (match := TRACE_NAME.fullmatch(path.name))
    )
    if not numbers:
        raise TraceError(f"{folder}: no file named chunk-N-trace.csv")
    clients = {number: _windows(folder / f"chunk-{number}-trace.csv") for number in numbers}
    starts = sorted({each.start_s for windows in clients.values() for each in windows})
    lengths: dict[int, Mapping[int, Mapping[str, Histogram]]] = {}
    found: list[Arrival] = []
    for start_s, end_s in itertools.pairwise(starts):
        if start_s < wanted.start_s or len(found) >= wanted.requests:
            continue
        for number, windows in clients.items():
            window = next((each for each in windows if each.start_s == start_s), None)
            if window is None or round(window.rate_per_s * (end_s - start_s)) == 0:
                continue
            if number not in lengths:
                lengths[number] = _histograms(folder / f"chunk-{number}-dataset.json")
            draw = np.random.default_rng([wanted.seed, number, start_s])
            found += _requests(window, end_s - start_s, _of(lengths[number], start_s), draw)
    if len(found) < wanted.requests:
        raise TraceError(f"{folder}: {len(found)} requests from {wanted.start_s} s on, no more")
    return sorted(found)[: wanted.requests]


def _requests(
    window: Window, length_s: int, lengths: Mapping[str, Histogram], draw: np.random.Generator
) -> Iterator[Arrival]:
    count = round(window.rate_per_s * length_s)
    times_s = window.start_s + _times_s(window, count, length_s, draw)
    drawn = [
        draw.choice(lengths[name].tokens, size=count, p=lengths[name].shares) for name in FIELDS
    ]
    for time_s, given, made in zip(times_s, *drawn, strict=True):
        yield Arrival(round(time_s * 1e6), int(given), int(made))


def _times_s(
    window: Window, count: int, length_s: int, draw: np.random.Generator
) -> NDArray[np.float64]:
    """`count` times in the window: gaps laid around it as on a circle, from a random place.

    Were all windows begun with a gap, the bursts of all clients would fall together there.
    """
    kind = draw.gamma if window.pattern == "Gamma" else draw.weibull
    gaps = kind(window.shape, size=count)
    total = float(gaps.sum())
    after_s = np.cumsum(gaps) * (length_s / total) if total > 0 else np.zeros(count)
    return (draw.uniform(0, length_s) + after_s) % length_s


def _windows(path: Path) -> list[Window]:
    found = []
    with opened(path) as lines:
        for line, cells in enumerate(csv.reader(lines), start=1):
            try:
                start, rate, _, pattern, shape, _ = cells
                if pattern not in ("", "Gamma", "Weibull"):
                    raise ValueError(f"unknown pattern {pattern!r}")  # noqa: TRY301 (as others)
                window = Window(int(start), float(rate), pattern, float(shape))
                if not (0 <= window.rate_per_s < math.inf and 0 <= window.shape < math.inf):
                    raise ValueError("rate and shape must be finite")  # noqa: TRY301
            except ValueError as error:
                raise TraceError(f"{path}:{line}: {error}") from error
            found.append(window)
    return found


def _histograms(path: Path) -> dict[int, dict[str, Histogram]]:
    """By the second from which they hold; windows without any are left out."""
    try:
        with opened(path) as content:
            entries = json.load(content)
        found = {int(start): _fields(entry) for start, entry in entries.items()}
    except (ValueError, SyntaxError, TypeError, KeyError, AttributeError) as error:
        raise TraceError(f"{path}: no histograms: {error}") from error
    held = {start: each for start, each in found.items() if each is not None}
    if not held:
        raise TraceError(f"{path}: no histogram that is not empty")
    return held


def _fields(entry: Mapping[str, str]) -> dict[str, Histogram] | None:
    pairs = {name: ast.literal_eval(entry[name]) for name in FIELDS}
    return {name: _histogram(pairs[name]) for name in FIELDS} if all(pairs.values()) else None


def _histogram(shares: Mapping[int, float]) -> Histogram:
    tokens = np.array(list(shares), dtype=np.int64)
    weights: NDArray[Any] = np.array(list(shares.values()), dtype=np.float64)
    if not (tokens.min() >= 0 and weights.min() >= 0 and 0 < weights.sum() < math.inf):
        raise ValueError("lengths and shares must not be negative")
    return Histogram(tokens, weights / weights.sum())


def _of(histograms: Mapping[int, Mapping[str, Histogram]], start_s: int) -> Mapping[str, Histogram]:
    """Those that hold then; the first where none does yet."""
    earlier = [start for start in histograms if start <= start_s]
    return histograms[max(earlier) if earlier else min(histograms)]
