"""What the network's numbers mean: one class a kind of output, read into predictions.

Owns the way from raw outputs to expected tokens, quantiles, rank score and class, for
every kind of task. Pure numpy; shared by serving and by training's evaluation, so that a
published figure is computed as the service computes it. Stored in a model's `config.json`.
A new kind is a class here and a member of `Output`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Literal, Protocol

import numpy as np
import pydantic
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field

from predictor_svc.lengths import Floats, LengthBins, softmax


# Kept beside the models, not in them: pydantic compares and copies what an instance holds.
@lru_cache(maxsize=16)
def _bins(count: int, top_tokens: int, beyond_tokens: int) -> LengthBins:
    return LengthBins(count, top_tokens, beyond_tokens)


@lru_cache(maxsize=16)
def _array(values: tuple[float, ...]) -> Floats:
    made = np.array(values)
    made.setflags(write=False)
    return made


@dataclass(frozen=True, slots=True)
class Readings:
    """Predictions of n prompts, column by column; everything finite, tokens at least 1."""

    expected_tokens: Floats
    """(n,)"""
    rank_scores: Floats
    """(n,): orders prompts by length; larger is longer."""
    quantiles: Floats
    """(n, q) tokens at the output's `quantile_probabilities`; q is 0 where it has none."""
    classes: NDArray[np.int64] | None = None
    """(n,) predicted class, 0 the shortest; None where the task has no classes."""
    class_probabilities: Floats | None = None
    """(n,) probability of that class; None where the task gives none."""


class Reader(Protocol):
    """What every kind of output can do."""

    @property
    def width(self) -> int:
        """Numbers that the network gives for a prompt."""

    @property
    def quantile_probabilities(self) -> tuple[float, ...]:
        """Probabilities of the quantiles, rising; empty without any."""

    @property
    def class_count(self) -> int:
        """Classes there are; 0 without any."""

    def read(self, raw: Floats, limits: Floats) -> Readings:
        """(n, width) outputs and the requests' limits in tokens, (n,) (inf without one)."""


class _Stored(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    @property
    def quantile_probabilities(self) -> tuple[float, ...]:
        """None, unless the kind says otherwise."""
        return ()

    @property
    def class_count(self) -> int:
        """None, unless the kind says otherwise."""
        return 0


class DistributionOutput(_Stored):
    """Logits over log-spaced length bins."""

    kind: Literal["distribution"] = "distribution"
    bin_count: int = Field(ge=3, le=4096)
    top_tokens: int = Field(ge=2)
    beyond_tokens: int = Field(ge=2)
    rank_values: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    """Share of training lengths below each bin: the rank score is its mean."""
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    """Probabilities of the quantiles that are answered, rising."""
    levels: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    """Level of the network's distribution that holds each quantile: recalibrated on
    validation prompts (Kuleshov et al. 2018, section 3); equal to `quantiles` without."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> DistributionOutput:
        if len(self.rank_values) != self.bin_count:
            raise ValueError("rank_values: one for each bin")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError("quantiles: must rise")
        if len(self.levels) != len(self.quantiles) or list(self.levels) != sorted(self.levels):
            raise ValueError("levels: one for each quantile, none falling")
        return self

    @property
    def bins(self) -> LengthBins:
        """The bins of the network's outputs."""
        return _bins(self.bin_count, self.top_tokens, self.beyond_tokens)

    @property
    def _ranks(self) -> Floats:
        return _array(self.rank_values)

    @property
    def width(self) -> int:
        """One logit a bin."""
        return self.bin_count

    @property
    def quantile_probabilities(self) -> tuple[float, ...]:
        """As configured."""
        return self.quantiles

    def read(self, raw: Floats, limits: Floats) -> Readings:
        """See `Reader`."""
        probabilities = softmax(raw)
        limits = np.minimum(limits, float(self.beyond_tokens))
        return Readings(
            expected_tokens=self.bins.expected(probabilities, limits),
            rank_scores=probabilities @ self._ranks,
            quantiles=self.bins.quantiles(probabilities, self.levels, limits),
        )


class TokensOutput(_Stored):
    """One number: tokens over `scale_tokens` (the SSJF paper's regression)."""

    kind: Literal["tokens"] = "tokens"
    scale_tokens: float = Field(gt=0)

    @property
    def width(self) -> int:
        """One number."""
        return 1

    def read(self, raw: Floats, limits: Floats) -> Readings:
        """See `Reader`."""
        tokens = np.asarray(raw[:, 0] * self.scale_tokens, dtype=np.float64)
        return Readings(_clip(tokens, limits), tokens, np.empty((len(raw), 0)))


class _Classes(_Stored):
    thresholds: tuple[Annotated[float, Field(gt=0)], ...] = Field(min_length=1)
    """Tokens from which on the next class begins, rising."""
    class_tokens: tuple[Annotated[float, Field(ge=0)], ...]
    """Median training length of each class."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> _Classes:
        if list(self.thresholds) != sorted(set(self.thresholds)):
            raise ValueError("thresholds: must rise")
        if len(self.class_tokens) != len(self.thresholds) + 1:
            raise ValueError("class_tokens: one more than thresholds")
        return self

    @property
    def class_count(self) -> int:
        """One more than thresholds."""
        return len(self.class_tokens)

    def class_of(self, tokens: Floats) -> NDArray[np.int64]:
        """The class of each length."""
        return np.searchsorted(np.array(self.thresholds), tokens, side="right").astype(np.int64)


class ClassesOutput(_Classes):
    """One logit a class; the order is that of the mean class, finer than the class alone."""

    kind: Literal["classes"] = "classes"

    @property
    def width(self) -> int:
        """One logit a class."""
        return self.class_count

    def read(self, raw: Floats, limits: Floats) -> Readings:
        """See `Reader`."""
        probabilities = softmax(raw)
        return Readings(
            expected_tokens=_clip(probabilities @ np.array(self.class_tokens), limits),
            rank_scores=probabilities @ np.arange(self.class_count, dtype=np.float64),
            quantiles=np.empty((len(raw), 0)),
            classes=probabilities.argmax(axis=1),
            class_probabilities=probabilities.max(axis=1),
        )


class OrdinalOutput(_Classes):
    """One number: the class as a point on a line (SSJF paper, ordinal classification)."""

    kind: Literal["ordinal"] = "ordinal"

    @property
    def width(self) -> int:
        """One number."""
        return 1

    def read(self, raw: Floats, limits: Floats) -> Readings:
        """See `Reader`; tokens are interpolated between the classes' medians."""
        places = np.asarray(raw[:, 0], dtype=np.float64)
        tokens = np.interp(places, np.arange(self.class_count), np.array(self.class_tokens))
        nearest = np.clip(np.rint(places), 0, self.class_count - 1).astype(np.int64)
        return Readings(_clip(tokens, limits), places, np.empty((len(raw), 0)), nearest)


class ScoreOutput(_Stored):
    """One number that only orders prompts (pairwise task), and a table from it to tokens."""

    kind: Literal["score"] = "score"
    scores: tuple[float, ...] = Field(min_length=2)
    """Scores of training prompts at even ranks, rising."""
    tokens: tuple[Annotated[float, Field(ge=0)], ...]
    """Training lengths at the same ranks, none falling."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> ScoreOutput:
        if len(self.tokens) != len(self.scores):
            raise ValueError("tokens: one for each score")
        for name, values in (("scores", self.scores), ("tokens", self.tokens)):
            if list(values) != sorted(values):
                raise ValueError(f"{name}: must not fall")
        return self

    @property
    def width(self) -> int:
        """One number."""
        return 1

    def read(self, raw: Floats, limits: Floats) -> Readings:
        """See `Reader`."""
        scores = np.asarray(raw[:, 0], dtype=np.float64)
        tokens = np.interp(scores, np.array(self.scores), np.array(self.tokens))
        return Readings(_clip(tokens, limits), scores, np.empty((len(raw), 0)))


Output = Annotated[
    DistributionOutput | TokensOutput | ClassesOutput | OrdinalOutput | ScoreOutput,
    Field(discriminator="kind"),
]


def _clip(tokens: Floats, limits: Floats) -> Floats:
    """At least 1, at most the limit."""
    return np.asarray(np.clip(tokens, 1.0, np.maximum(limits, 1.0)))
