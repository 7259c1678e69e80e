"""Lengths and predictions for the paper's experiments: the paper's own, where they are public.

Owns reading its published predictions (a CSV with `output_tokens` and a column
`pred_…` for each predictor) and standing in for predictors whose predictions are
not public: noise of the tau-b that a training of the same recipe reached. Called by
`ssjf bench as-published`.
"""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Final

import numpy as np
from numpy.typing import NDArray

from ssjf_bench import sim_predictions

PREDICTION: Final = "pred_"
LENGTH: Final = "output_tokens"
NO_ORDER_TAU: Final = 0.05
"""Predictions that order no better than this are taken as no order at all."""
MOST_CLASSES: Final = 16
"""A predictor that says no more different things than this says classes."""
PUBLISHED: Final = "the paper's published predictions"
Tokens = NDArray[np.float64]


class PublishedDataError(Exception):
    """A file of lengths or of a training cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class Predictor:
    """What one predictor says of every answer."""

    name: str
    """Of its task."""
    tokens: Tokens
    """Predicted lengths, positive, shape (answers,); for classes the median of the class."""
    tau_b: float
    """Kendall's tau-b against the true lengths."""
    origin: str
    """Where the predictions come from, for reports."""


def read_lengths(path: Path) -> tuple[NDArray[np.int64], dict[str, Tokens]]:
    """True lengths, and what each predictor said: a class or tokens; a .csv or .csv.gz file.

    Raises PublishedDataError for a file without lengths or with a field that is no number.
    """
    try:
        with _open(path) as lines:
            reader = csv.DictReader(lines)
            columns = [LENGTH, *(c for c in reader.fieldnames or () if c.startswith(PREDICTION))]
            rows = [[float(row[column]) for column in columns] for row in reader]
    except KeyError as error:
        raise PublishedDataError(f"{path}: no column {error}") from error
    except (OSError, EOFError, TypeError, ValueError, csv.Error) as error:
        raise PublishedDataError(f"{path}: {error}") from error
    if len(rows) < 2:
        raise PublishedDataError(f"{path}: fewer than two answers")
    table = np.array(rows)
    if not np.isfinite(table).all():
        raise PublishedDataError(f"{path}: not all of it are numbers")
    said = {column.removeprefix(PREDICTION): table[:, i] for i, column in enumerate(columns)}
    return np.maximum(1, said.pop(LENGTH)).astype(np.int64), said


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8", newline="")
    return path.open(encoding="utf-8", newline="")


def published(name: str, said: Tokens, actual: NDArray[np.int64]) -> Predictor:
    """A predictor by what it said. Classes stand for the median length of their answers."""
    classes = np.unique(said)
    tokens = np.maximum(said, 1.0)
    if len(classes) <= MOST_CLASSES:
        for each in classes:
            tokens[said == each] = np.median(actual[said == each])
    tau_b = sim_predictions.kendall_tau_b(said, actual.tolist())
    return Predictor(name, tokens, tau_b, PUBLISHED)


def read_training(path: Path) -> tuple[str, float]:
    """Recipe and tau-b on test of a training's result file. Raises PublishedDataError."""
    try:
        result: Mapping[str, object] = json.loads(path.read_text(encoding="utf-8"))
        test = result["test"]
        assert isinstance(test, dict)  # noqa: S101 (caught below)
        return str(result["recipe"]), float(test["kendall_tau_b"])
    except (OSError, ValueError, KeyError, TypeError, AssertionError) as error:
        raise PublishedDataError(f"{path}: not the result of a training ({error!r})") from error


def from_tau(name: str, tau_b: float, actual: NDArray[np.int64], seed: int) -> Predictor:
    """Log-normal noise of that tau-b, or lengths in random order. Raises ValueError."""
    lengths: Sequence[int] = actual.tolist()
    if tau_b < NO_ORDER_TAU:
        mixed = np.random.default_rng(seed).permutation(actual).astype(np.float64)
        return Predictor(name, mixed, 0.0, f"random order, for a training of tau-b {tau_b:.3f}")
    sigma = sim_predictions.sigma_for_tau(lengths, tau_b, seed)
    noisy = np.array(sim_predictions.noisy(lengths, sigma, seed).tokens)
    return Predictor(name, noisy, tau_b, f"log-normal noise, sigma {sigma:.4f}")
