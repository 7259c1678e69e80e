from __future__ import annotations

import numpy as np
import pytest

from predictor_svc.outputs import OrdinalOutput, TokensOutput
from predictor_svc.predictions import ClassPrediction, interpret
from tests.predictor_svc.small_model import CLASSES, DISTRIBUTION


def test_a_prediction_is_clipped_to_the_request_s_limit() -> None:
    logits = np.zeros((2, DISTRIBUTION.width))
    logits[:, -1] = 50.0
    free, limited = interpret(logits, [None, 40], DISTRIBUTION)
    assert free is not None
    assert limited is not None
    assert free.expected_tokens == pytest.approx(DISTRIBUTION.beyond_tokens)
    assert limited.expected_tokens == pytest.approx(40)
    assert max(tokens for _, tokens in limited.quantiles) <= 40
    assert free.rank_score == limited.rank_score
    assert free.length_class is None


@pytest.mark.parametrize("broken", [np.nan, np.inf, -np.inf])
def test_outputs_that_are_not_finite_are_no_prediction_and_harm_no_other(broken: float) -> None:
    logits = np.zeros((3, DISTRIBUTION.width), dtype=np.float32)
    logits[1, 3] = broken
    first, second, third = interpret(logits, [None] * 3, DISTRIBUTION)
    assert second is None
    assert first is not None
    assert first == third


def test_a_classifier_s_class_comes_with_its_probability() -> None:
    (found,) = interpret(np.log([[0.1, 0.7, 0.2]]), [None], CLASSES)
    assert found is not None
    assert found.length_class is not None
    assert (found.length_class.index, found.length_class.count) == (1, 3)
    assert found.length_class.probability == pytest.approx(0.7)
    assert found.quantiles == ()


def test_an_ordinal_task_has_a_class_and_no_probability() -> None:
    output = OrdinalOutput(thresholds=(10.0, 100.0), class_tokens=(5.0, 50.0, 200.0))
    (found,) = interpret(np.array([[1.8]]), [None], output)
    assert found is not None
    assert found.length_class == ClassPrediction(2, 3, None)


def test_a_regression_has_neither_class_nor_quantiles() -> None:
    (found,) = interpret(np.array([[0.5]]), [None], TokensOutput(scale_tokens=100.0))
    assert found is not None
    assert (found.expected_tokens, found.quantiles, found.length_class) == (50.0, (), None)
