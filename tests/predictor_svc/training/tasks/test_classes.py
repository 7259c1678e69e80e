from __future__ import annotations

import numpy as np
import pytest
import torch

from predictor_svc.training.data import Lengths
from predictor_svc.training.tasks import BINARY, MULTICLASS
from predictor_svc.training.tasks.classes import Classes, Ordinal, class_limits


def lengths_of(*tokens: int) -> list[Lengths]:
    return [Lengths((each,), (True,)) for each in tokens]


def drawn(count: int) -> list[Lengths]:
    found = np.random.default_rng(3).lognormal(4, 1, size=count).astype(int) + 1
    return lengths_of(*found.tolist())


def test_limits_are_percentiles_and_classes_hold_their_share() -> None:
    limits, _ = class_limits(lengths_of(*range(1, 1001)), MULTICLASS)
    assert limits == (251, 501, 751, 991)
    output = Classes(MULTICLASS).output(drawn(4000))
    classes = output.class_of(np.array([each.tokens[0] for each in drawn(4000)], float))
    shares = np.bincount(classes) / 4000
    np.testing.assert_allclose(shares, [0.25, 0.25, 0.25, 0.24, 0.01], atol=0.02)


def test_every_length_is_in_the_class_that_the_interpolated_percentile_gives() -> None:
    tokens = np.array([each.tokens[0] for each in drawn(501)], float)
    output = Classes(MULTICLASS).output(drawn(501))
    slow = sum((tokens >= np.quantile(tokens, each)).astype(int) for each in MULTICLASS)
    np.testing.assert_array_equal(output.class_of(tokens), slow)


def test_a_class_stands_for_the_median_of_its_lengths() -> None:
    _, medians = class_limits(lengths_of(1, 2, 3, 10, 20, 90), (0.5,))
    assert medians == (2, 20)


def test_percentiles_that_coincide_make_one_class() -> None:
    limits, medians = class_limits(lengths_of(*[5] * 10, *[80] * 10), MULTICLASS)
    assert (limits, medians) == ((80,), (5, 80))


@pytest.mark.parametrize("count", range(2, 12))
def test_no_class_is_empty_however_few_lengths_there_are(count: int) -> None:
    few = lengths_of(*(4**n for n in range(count)))
    output = Classes(MULTICLASS).output(few)
    classes = output.class_of(np.array([each.tokens[0] for each in few], float))
    assert set(classes) == set(range(output.class_count))


@pytest.mark.parametrize("tokens", [(7, 7, 7), (0, 0)])
def test_equal_lengths_cannot_be_classed(tokens: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="all lengths are equal"):
        class_limits(lengths_of(*tokens), BINARY)


def test_every_class_weighs_the_same_in_all() -> None:
    lengths = drawn(300)
    output = Classes(MULTICLASS).output(lengths)
    targets = Classes(MULTICLASS).targets(lengths, output)
    totals = torch.zeros(output.class_count).index_add(0, targets["classes"], targets["weights"])
    torch.testing.assert_close(totals, torch.ones(output.class_count))


def test_the_loss_is_cross_entropy_weighted_by_class_count() -> None:
    lengths = lengths_of(1, 2, 3, 50)
    task = Classes((0.75,))
    output = task.output(lengths)
    raw = torch.tensor([[1.0, -1.0], [0.5, 0.0], [-2.0, 1.0], [0.0, 3.0]])
    slow, total = 0.0, 0.0
    for row, (wanted, count) in enumerate([(0, 3), (0, 3), (0, 3), (1, 1)]):
        exponentials = np.exp(raw[row].numpy())
        slow -= np.log(exponentials[wanted] / exponentials.sum()) / count
        total += 1 / count
    found = task.loss(raw, task.targets(lengths, output), output)
    assert float(found) == pytest.approx(slow / total, rel=1e-5)


@pytest.mark.parametrize(("kind", "wanted"), [("l1", (0.5 + 1 + 2) / 3), ("mse", 5.25 / 3)])
def test_an_ordinal_class_is_a_number_with_a_distance(kind: str, wanted: float) -> None:
    lengths = lengths_of(1, 50, 900)
    task = Ordinal((0.4, 0.9), "l1" if kind == "l1" else "mse")
    output = task.output(lengths)
    targets = task.targets(lengths, output)
    assert targets["classes"].tolist() == [0, 1, 2]
    raw = torch.tensor([[0.5], [0.0], [4.0]])
    assert float(task.loss(raw, targets, output)) == pytest.approx(wanted)


def test_only_the_first_sample_is_the_label() -> None:
    lengths = [Lengths((first, 400), (True, True)) for first in (1, 2, 3, 50)]
    task = Classes((0.75,))
    assert task.targets(lengths, task.output(lengths))["classes"].tolist() == [0, 0, 0, 1]
