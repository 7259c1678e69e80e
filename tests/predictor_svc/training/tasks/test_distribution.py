from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import kstest

from predictor_svc.lengths import Floats, softmax
from predictor_svc.outputs import DistributionOutput
from predictor_svc.training.data import Lengths
from predictor_svc.training.tasks.distribution import (
    RANKED_SAMPLES,
    Distribution,
    level_of_samples,
    likelihood,
    ranking,
)

LIMIT = 300
TASK = Distribution(bin_count=12)


def cut(tokens: Floats) -> Lengths:
    """Sampled lengths, those above the limit cut there."""
    rounded = np.maximum(np.rint(tokens), 1).astype(int)
    return Lengths(tuple(np.minimum(rounded, LIMIT).tolist()), tuple((rounded < LIMIT).tolist()))


def some_lengths(count: int) -> list[Lengths]:
    draw = np.random.default_rng(1)
    return [cut(draw.lognormal(mean, 0.5, size=4)) for mean in draw.normal(4.5, 0.8, size=count)]


def test_bins_end_where_answers_are_cut() -> None:
    output = TASK.output(some_lengths(500))
    assert output.top_tokens == LIMIT
    assert output.beyond_tokens == round(LIMIT * math.sqrt(2))
    assert (np.diff(output.rank_values) >= 0).all()
    assert output.levels == output.quantiles


def test_the_likelihood_with_cut_answers_is_that_of_a_slow_loop() -> None:
    lengths = [
        Lengths((3, 40, LIMIT), (True, True, False)),
        Lengths((LIMIT, LIMIT), (False, False)),
        Lengths((7,), (True,)),
        Lengths((90, 20), (False, True)),
    ]
    output = TASK.output(lengths)
    targets = TASK.targets(lengths, output)
    logs = torch.randn(4, 12, generator=torch.Generator().manual_seed(2)).log_softmax(dim=1)
    slow = 0.0
    for row, each in enumerate(lengths):
        probabilities = logs[row].exp().double().numpy()
        for tokens, stopped in zip(each.tokens, each.stopped, strict=True):
            where = np.array([float(tokens)])
            if stopped:
                (soft,) = output.bins.soft_labels(where, TASK.label_width_bins)
                gain = sum(
                    share * math.log(p) for share, p in zip(soft, probabilities, strict=True)
                )
            else:
                gain = math.log(probabilities[int(output.bins.index(where)[0]) :].sum())
            slow -= gain / len(each.tokens) / len(lengths)
    found = likelihood(logs, targets["ended"], targets["cut"])
    assert float(found) == pytest.approx(slow, rel=1e-5)


def test_a_cut_answer_asks_only_for_mass_from_the_cut_on() -> None:
    lengths = [Lengths((LIMIT, LIMIT), (False, False)), Lengths((1, 2), (True, True))]
    output = TASK.output(lengths)
    targets = {name: each[:1] for name, each in TASK.targets(lengths, output).items()}
    raw = torch.full((1, 12), -20.0)
    raw[0, -1] = 20.0
    assert TASK.loss(raw, targets, output) < 1e-3
    assert TASK.loss(raw.flip(1), targets, output) > 10


def test_the_ranking_is_that_of_a_slow_loop() -> None:
    scores = [0.2, 0.9, 0.4]
    samples = [[3, 4, 3, 9], [200, 5, 8, 300], [4, 300, 300, 20]]
    slow = 0.0
    for one in range(3):
        for other in range(3):
            pairs = [(a, b) for a in samples[one] for b in samples[other]]
            longer = sum(a > b for a, b in pairs) / len(pairs)
            shorter = sum(a < b for a, b in pairs) / len(pairs)
            chance = 1 / (1 + math.exp(-8.0 * (scores[one] - scores[other])))
            if one != other:
                slow -= longer * math.log(chance) + shorter * math.log(1 - chance)
    found = ranking(torch.tensor(scores), torch.tensor(samples, dtype=torch.float32), 8.0)
    assert float(found) == pytest.approx(slow / 6, rel=1e-5)


def test_with_one_sample_the_ranking_is_ranknet() -> None:
    scores, tokens = torch.tensor([0.1, 0.6]), torch.tensor([[30.0], [4.0]])
    wanted = math.log1p(math.exp(5.0 * (0.6 - 0.1)))  # of the one pair, either way round
    assert float(ranking(scores, tokens, 5.0)) == pytest.approx(wanted, rel=1e-5)


def test_ties_decide_nothing() -> None:
    scores = torch.tensor([0.1, 0.9], requires_grad=True)
    found = ranking(scores, torch.full((2, 4), float(LIMIT)), 8.0)
    found.backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad.abs().max() < 1e-6


def test_the_ranking_prefers_the_right_order() -> None:
    lengths = [Lengths((3, 4), (True, True)), Lengths((100, 120), (True, True))]
    output = TASK.output(lengths)
    targets = TASK.targets(lengths, output)
    assert targets["samples"].shape == (2, RANKED_SAMPLES)
    right = torch.stack([torch.linspace(5, -5, 12), torch.linspace(-5, 5, 12)])
    assert TASK.loss(right, targets, output) < TASK.loss(right.flip(0), targets, output)


def true_model(
    count: int, samples: int, limit: float = LIMIT
) -> tuple[DistributionOutput, Floats, list[Lengths]]:
    """Random distributions over bins, and lengths drawn from each, not rounded but cut."""
    draw = np.random.default_rng(5)
    output = Distribution(bin_count=24).output(some_lengths(500))
    raw = draw.normal(size=(count, 24)) * 1.5 + np.linspace(-1, 1, 24)
    points = np.log(np.append(output.bins.edges, output.beyond_tokens))
    lengths = []
    for probabilities in softmax(raw):
        below = np.append(0.0, np.cumsum(probabilities))
        tokens = np.exp(np.interp(draw.random(samples), below, points))
        stopped = tokens < limit
        kept = np.where(stopped, tokens, limit)
        # Lengths are whole tokens; here fractions keep the check free of rounding.
        lengths.append(Lengths(tuple(kept.tolist()), tuple(stopped.tolist())))
    return output, raw, lengths


def test_places_are_uniform_when_the_model_is_right_cut_answers_included() -> None:
    output, raw, lengths = true_model(600, 5)
    cut_share = 1 - np.mean([each.stopped for each in lengths])
    assert 0.02 < cut_share < 0.5
    places = level_of_samples(output, raw, lengths, seed=0)
    assert places.shape == (3000,)
    assert kstest(places, "uniform").pvalue > 0.01


def test_places_are_not_uniform_when_the_model_is_wrong() -> None:
    output, raw, lengths = true_model(600, 5)
    places = level_of_samples(output, raw[::-1] * 3, lengths, seed=0)
    assert kstest(places, "uniform").pvalue < 1e-6


def test_a_cut_answer_lies_somewhere_above_its_cut_the_same_for_the_same_seed() -> None:
    output, raw, _ = true_model(1, 1)
    ended, open_ended = (
        np.array([level_of_samples(output, raw, [Lengths((40,), (stopped,))], n)[0] for n in seeds])
        for stopped, seeds in ((True, range(2)), (False, range(200)))
    )
    assert ended[0] == ended[1]
    assert ended[0] < open_ended.min() < open_ended.max() <= 1
    again = level_of_samples(output, raw, [Lengths((40,), (False,))], 7)[0]
    assert again == open_ended[7]


def test_calibrated_levels_cover_what_a_wrong_model_does_not() -> None:
    output, raw, lengths = true_model(3000, 3)
    sharp = raw * 3  # too sure of itself
    held_back, fresh = slice(0, 1500), slice(1500, 3000)
    fitted = TASK.calibrated(output, sharp[held_back], lengths[held_back], seed=0)
    assert list(fitted.levels) == sorted(fitted.levels)

    def coverage(by: DistributionOutput) -> Floats:
        places = level_of_samples(by, sharp[fresh], lengths[fresh], seed=1)
        return np.array([(places <= level).mean() for level in by.levels])

    wanted = np.array(output.quantiles)
    np.testing.assert_allclose(coverage(fitted), wanted, atol=0.025)
    assert np.abs(coverage(output) - wanted).max() > 0.05


def test_quantiles_that_are_read_cover_the_lengths() -> None:
    output, raw, lengths = true_model(3000, 1, limit=math.inf)
    found = output.read(raw, np.full(3000, np.inf)).quantiles
    tokens = np.array([each.tokens for each in lengths])
    np.testing.assert_allclose((tokens <= found).mean(axis=0), output.quantiles, atol=0.025)
