from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pydantic import TypeAdapter, ValidationError

from predictor_svc.lengths import Floats
from predictor_svc.outputs import (
    ClassesOutput,
    DistributionOutput,
    OrdinalOutput,
    Output,
    ScoreOutput,
    TokensOutput,
)

INF = np.inf
DISTRIBUTION = DistributionOutput(
    bin_count=4,
    top_tokens=1000,
    beyond_tokens=2000,
    rank_values=(0.0, 0.25, 0.5, 0.75),
    quantiles=(0.5, 0.9),
    levels=(0.25, 0.75),
)
CLASSES = ClassesOutput(thresholds=(10.0, 100.0), class_tokens=(4.0, 50.0, 300.0))
ORDINAL = OrdinalOutput(thresholds=(10.0, 100.0), class_tokens=(4.0, 50.0, 300.0))
SCORE = ScoreOutput(scores=(-1.0, 0.0, 2.0), tokens=(5.0, 20.0, 100.0))
TOKENS = TokensOutput(scale_tokens=100.0)
ALL: list[Any] = [DISTRIBUTION, CLASSES, ORDINAL, SCORE, TOKENS]


def column(*values: float) -> Floats:
    return np.array(values)[:, None]


@pytest.mark.parametrize("output", ALL, ids=lambda each: each.kind)
def test_whatever_the_network_gives_the_readings_are_finite_and_within_limits(output: Any) -> None:
    draw = np.random.default_rng(0)
    raw = draw.normal(size=(300, output.width)) * 10 ** draw.uniform(-3, 6, size=(300, 1))
    limits = np.where(draw.random(300) < 0.5, INF, draw.integers(1, 500, size=300))
    found = output.read(raw, limits)
    assert np.isfinite(found.rank_scores).all()
    assert (found.expected_tokens >= 1).all()
    assert np.isfinite(found.expected_tokens).all()
    assert (found.expected_tokens <= limits + 1e-9).all()
    assert found.quantiles.shape == (300, len(output.quantile_probabilities))
    assert (found.quantiles <= limits[:, None] + 1e-9).all()
    assert (found.classes is None) == (output.class_count == 0)


@pytest.mark.parametrize("output", ALL, ids=lambda each: each.kind)
def test_every_kind_is_read_back_as_itself(output: Any) -> None:
    stored = TypeAdapter(Output)
    assert stored.validate_json(stored.dump_json(output)) == output


def test_a_distribution_s_quantiles_are_read_at_the_levels() -> None:
    found = DISTRIBUTION.read(np.zeros((1, 4)), np.array([INF]))
    np.testing.assert_allclose(found.quantiles, [[10, 1000]])
    assert found.rank_scores.tolist() == [0.375]


def test_tokens_are_scaled() -> None:
    found = TOKENS.read(column(2.5, -3.0, 0.001), np.full(3, INF))
    np.testing.assert_allclose(found.expected_tokens, [250, 1, 1])
    np.testing.assert_allclose(found.rank_scores, [250, -300, 0.1])  # the order is kept


def test_a_class_is_read_with_its_probability_and_the_order_is_finer() -> None:
    raw = np.log([[0.7, 0.2, 0.1], [0.6, 0.2, 0.2], [0.1, 0.3, 0.6]])
    found = CLASSES.read(raw, np.array([INF, INF, 100]))
    assert found.classes is not None
    assert found.class_probabilities is not None
    assert found.classes.tolist() == [0, 0, 2]
    np.testing.assert_allclose(found.class_probabilities, [0.7, 0.6, 0.6])
    np.testing.assert_allclose(found.rank_scores, [0.4, 0.6, 1.5])
    np.testing.assert_allclose(found.expected_tokens, [42.8, 72.4, 100])


def test_the_class_of_a_length_begins_at_its_threshold() -> None:
    assert CLASSES.class_of(np.array([0, 9.9, 10, 99, 100, 1e9])).tolist() == [0, 0, 1, 1, 2, 2]


def test_an_ordinal_number_is_the_nearest_class_and_its_tokens_lie_between() -> None:
    found = ORDINAL.read(column(-3.0, 0.4, 0.6, 1.5, 7.0), np.full(5, INF))
    assert found.classes is not None
    assert found.classes[[0, 1, 2, 4]].tolist() == [0, 0, 1, 2]
    np.testing.assert_allclose(found.expected_tokens, [4, 22.4, 31.6, 175, 300])
    assert found.rank_scores.tolist() == [-3.0, 0.4, 0.6, 1.5, 7.0]


def test_a_score_is_looked_up_in_its_table() -> None:
    found = SCORE.read(column(-9.0, -0.5, 1.0, 9.0), np.full(4, INF))
    np.testing.assert_allclose(found.expected_tokens, [5, 12.5, 60, 100])
    assert found.rank_scores.tolist() == [-9.0, -0.5, 1.0, 9.0]


@pytest.mark.parametrize(
    ("output", "change", "message"),
    [
        (DISTRIBUTION, {"rank_values": (0.0,)}, "rank_values: one for each bin"),
        (DISTRIBUTION, {"quantiles": (0.9, 0.5)}, "quantiles: must rise"),
        (DISTRIBUTION, {"levels": (0.9, 0.5)}, "levels: one for each quantile, none falling"),
        (CLASSES, {"thresholds": (100.0, 10.0)}, "thresholds: must rise"),
        (ORDINAL, {"class_tokens": (1.0,)}, "class_tokens: one more than thresholds"),
        (SCORE, {"tokens": (5.0, 1.0, 9.0)}, "tokens: must not fall"),
        (SCORE, {"scores": (0.0, 1.0)}, "tokens: one for each score"),
        (TOKENS, {"scale_tokens": 0}, "scale_tokens"),
    ],
)
def test_what_contradicts_itself_is_refused(
    output: Any, change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError, match=message):
        type(output).model_validate(output.model_dump() | change)
