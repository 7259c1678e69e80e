from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from predictor_svc.training.data import Lengths
from predictor_svc.training.tasks.pairwise import Pairwise

TOKENS = (5, 80, 80, 3, 240, 17)
LENGTHS = [Lengths((each, 1), (True, True)) for each in TOKENS]
TASK = Pairwise()
OUTPUT = TASK.output(LENGTHS)


def loss(*scores: float) -> float:
    raw = torch.tensor(scores)[:, None]
    return float(TASK.loss(raw, TASK.targets(LENGTHS, OUTPUT), OUTPUT))


def test_the_loss_is_the_logistic_one_over_all_ordered_pairs() -> None:
    scores = (0.3, -1.0, 2.0, 0.1, 0.7, -0.4)
    pairs = [
        math.log1p(math.exp(scores[other] - scores[one]))
        for one in range(6)
        for other in range(6)
        if TOKENS[one] > TOKENS[other]
    ]
    assert len(pairs) == 14  # of 15, one is a tie
    assert loss(*scores) == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)


def test_the_right_order_costs_least_and_only_differences_count() -> None:
    right = [float(each) for each in np.argsort(np.argsort(TOKENS))]
    assert loss(*right) < loss(*[0.0] * 6) < loss(*[-each for each in right])
    assert loss(*right) == pytest.approx(loss(*[each + 9 for each in right]), rel=1e-5)


def test_a_batch_of_equal_labels_teaches_nothing() -> None:
    lengths = [Lengths((7,), (True,))] * 3
    raw = torch.tensor([[1.0], [2.0], [3.0]], requires_grad=True)
    found = TASK.loss(raw, TASK.targets(lengths, OUTPUT), OUTPUT)
    found.backward()  # type: ignore[no-untyped-call]
    assert float(found.detach()) == 0
    assert raw.grad is not None
    assert not raw.grad.any()


def test_calibrated_scores_stand_for_lengths_of_the_same_rank() -> None:
    scores = np.array([-0.5, 0.9, 0.8, -2.0, 3.0, 0.0])[:, None]  # in the order of TOKENS
    output = TASK.calibrated(OUTPUT, scores, LENGTHS, seed=0)
    found = output.read(scores, np.full(6, np.inf))
    assert found.rank_scores.tolist() == scores[:, 0].tolist()
    assert found.expected_tokens[[0, 3, 4, 5]] == pytest.approx([5, 3, 240, 17], rel=0.2)
    assert (np.diff(output.tokens) >= 0).all()


def test_scores_beyond_those_seen_stay_within_the_lengths_seen() -> None:
    output = TASK.calibrated(OUTPUT, np.arange(6.0)[:, None], LENGTHS, seed=0)
    found = output.read(np.array([[-1e6], [1e6]]), np.full(2, np.inf))
    assert found.expected_tokens.tolist() == [3, 240]
