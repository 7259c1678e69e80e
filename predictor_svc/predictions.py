"""Queries in, predictions out: the plain types of a call, and how raw outputs are read.

Knows what a network's numbers mean only through the model's configuration. Shared by
`translate`, which knows the messages, and `pipeline`, which knows the batches.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from predictor_svc.encoder import PromptText
from predictor_svc.outputs import Output, Readings


@dataclass(frozen=True, slots=True)
class Query:
    """One prompt to predict for."""

    text: PromptText
    max_tokens: int | None
    """The request's limit, which clips the prediction; None without one."""


@dataclass(frozen=True, slots=True)
class ClassPrediction:
    """The class that a length is expected to fall in."""

    index: int
    """From 0, the shortest."""
    count: int
    probability: float | None
    """None where the task gives none."""


@dataclass(frozen=True, slots=True)
class LengthPrediction:
    """What the model expects of one answer; everything finite, tokens at least 1."""

    expected_tokens: float
    quantiles: tuple[tuple[float, float], ...]
    """(probability, tokens), rising; empty where the task has none."""
    rank_score: float
    length_class: ClassPrediction | None = None


class NotFinite(Exception):
    """The network gave NaN or infinity for a prompt: no number is better than a made-up one."""


def interpret(
    rows: NDArray[np.floating], max_tokens: Sequence[int | None], output: Output
) -> list[LengthPrediction | None]:
    """(n, width) raw outputs and each request's limit to predictions.

    None for a prompt whose outputs are not finite; the others are not harmed by it.
    """
    finite = np.isfinite(rows)
    broken: list[int] = []
    if not finite.all():
        of_row = finite.all(axis=1)
        broken = np.flatnonzero(~of_row).tolist()
        rows = np.where(of_row[:, None], rows, 0)
    limits = np.array([math.inf if each is None else each for each in max_tokens])
    readings = output.read(rows.astype(np.float64), limits)
    predictions: list[LengthPrediction | None] = [*_columns_to_rows(readings, output)]
    for row in broken:
        predictions[row] = None
    return predictions


def _columns_to_rows(readings: Readings, output: Output) -> list[LengthPrediction]:
    expected = readings.expected_tokens.tolist()
    scores = readings.rank_scores.tolist()
    probabilities = output.quantile_probabilities
    quantiles = [tuple(zip(probabilities, row, strict=True)) for row in readings.quantiles.tolist()]
    columns = zip(expected, quantiles, scores, _classes(readings, output), strict=True)
    return [LengthPrediction(*each) for each in columns]


def _classes(readings: Readings, output: Output) -> list[ClassPrediction | None]:
    if readings.classes is None:
        return [None] * len(readings.expected_tokens)
    indices = readings.classes.tolist()
    if readings.class_probabilities is None:
        return [ClassPrediction(index, output.class_count, None) for index in indices]
    return [
        ClassPrediction(index, output.class_count, probability)
        for index, probability in zip(indices, readings.class_probabilities.tolist(), strict=True)
    ]
