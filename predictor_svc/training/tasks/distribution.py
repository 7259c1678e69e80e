"""The length distribution, learnt from several samples a prompt: the project's own task.

Two terms. The likelihood: a soft label around each sampled length, and for an answer cut
at the limit the probability of everything from there on (a censored observation, as in
survival analysis). The ranking: for two prompts, the probability that a sample of one is
longer than a sample of the other, through a sigmoid on the difference of their rank
scores; with one sample a prompt this is RankNet (Burges et al. 2005).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from predictor_svc.lengths import Floats, LengthBins, softmax
from predictor_svc.outputs import DistributionOutput
from predictor_svc.training.data import Lengths
from predictor_svc.training.task import Targets

RANKED_SAMPLES = 8
"""Samples a prompt that the ranking compares at most; the term costs their square."""
TAIL_SHARE = 0.002
"""Share of training lengths that the open bin holds, if they were not cut there."""


@dataclass(frozen=True, slots=True)
class Distribution:
    """A probability for each of `bin_count` log-spaced bins."""

    bin_count: int = 48
    label_width_bins: float = 1.0
    """Standard deviation of the Gaussian that a sampled length spreads over the bins."""
    ranking_weight: float = 1.0
    ranking_scale: float = 8.0
    """Slope of the sigmoid on the difference of two rank scores in 0..1."""
    quantiles: tuple[float, ...] = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)

    def output(self, lengths: Sequence[Lengths]) -> DistributionOutput:
        """Bins up to nearly the longest answer; the open one holds the rest."""
        tokens = np.concatenate([each.tokens for each in lengths]).astype(np.float64)
        # Where answers were cut at one limit, more than this share of them lies there.
        top = max(round(float(np.quantile(tokens, 1.0 - TAIL_SHARE))), 2)
        bins = LengthBins(self.bin_count, top, round(top * 2**0.5))
        return DistributionOutput(
            bin_count=bins.count,
            top_tokens=bins.top_tokens,
            beyond_tokens=bins.beyond_tokens,
            rank_values=tuple(round(float(value), 6) for value in bins.rank_values(tokens)),
            quantiles=self.quantiles,
            levels=self.quantiles,
        )

    def targets(self, lengths: Sequence[Lengths], output: DistributionOutput) -> Targets:
        """Soft labels (ended, cut), and samples to rank by; every prompt with the same weight."""
        bins = output.bins
        ended = np.zeros((len(lengths), bins.count))
        cut = np.zeros_like(ended)
        samples = np.zeros((len(lengths), RANKED_SAMPLES))
        for row, each in enumerate(lengths):
            tokens, stopped = np.array(each.tokens, dtype=float), np.array(each.stopped)
            share = 1.0 / len(tokens)
            soft = bins.soft_labels(tokens[stopped], self.label_width_bins)
            ended[row] = soft.sum(axis=0) * share
            np.add.at(cut[row], bins.index(tokens[~stopped]), share)
            samples[row] = np.resize(tokens, RANKED_SAMPLES)
        named = {"ended": ended, "cut": cut, "samples": samples}
        return {name: torch.tensor(each, dtype=torch.float32) for name, each in named.items()}

    def loss(self, raw: Tensor, targets: Targets, output: DistributionOutput) -> Tensor:
        """The sum of both terms."""
        logs = raw.log_softmax(dim=1)
        loss = likelihood(logs, targets["ended"], targets["cut"])
        if self.ranking_weight and len(raw) > 1:
            scores = logs.exp() @ raw.new_tensor(output.rank_values)
            ranked = ranking(scores, targets["samples"], self.ranking_scale)
            loss = loss + self.ranking_weight * ranked
        return loss

    def calibrated(
        self, output: DistributionOutput, raw: Floats, lengths: Sequence[Lengths], seed: int
    ) -> DistributionOutput:
        """Levels at which held-back lengths lie under the quantiles as often as they should."""
        places = level_of_samples(output, raw, lengths, seed)
        levels = np.quantile(places, output.quantiles)
        return output.model_copy(update={"levels": tuple(float(each) for each in levels)})


def likelihood(logs: Tensor, ended: Tensor, cut: Tensor) -> Tensor:
    """Mean negative log-likelihood; (n, bins) log-probabilities and shares of samples."""
    # A running sum from the end; not cumsum, which is not deterministic on CUDA.
    earlier = torch.ones_like(logs[0]).diag().bool().logical_not().tril()
    beyond = logs[:, None, :].masked_fill(earlier, float("-inf")).logsumexp(dim=2)
    return -(ended * logs + cut * beyond).sum(dim=1).mean()


def ranking(scores: Tensor, samples: Tensor, scale: float) -> Tensor:
    """Binary cross-entropy of every ordered pair against its sampled probability."""
    longer = (samples[:, None, :, None] > samples[None, :, None, :]).float().mean(dim=(2, 3))
    decided = longer + longer.t()  # ties, such as two cut answers, decide nothing
    target = longer / decided.clamp(min=1e-6)
    weight = decided * (1.0 - torch.eye(len(scores), device=scores.device))
    difference = (scores[:, None] - scores[None, :]) * scale
    total = functional.binary_cross_entropy_with_logits(
        difference, target, weight=weight, reduction="sum"
    )
    return total / (len(scores) * (len(scores) - 1))


def level_of_samples(
    output: DistributionOutput, raw: Floats, lengths: Sequence[Lengths], seed: int
) -> Floats:
    """Where every sample lies in its prompt's predicted distribution, in 0..1.

    The probability integral transform; a cut answer, known only to be longer, gets a
    random place above the cut (randomised PIT, Czado, Gneiting and Held 2009, section 2).
    """
    draw = np.random.default_rng(seed)
    points = output.bins.log_points
    places = []
    for cumulative, each in zip(np.cumsum(softmax(raw), axis=1), lengths, strict=True):
        below = np.concatenate(([0.0], cumulative / cumulative[-1]))
        found = np.interp(np.log(np.maximum(each.tokens, 1.0)), points, below)
        above = draw.uniform(found, 1.0)
        places.append(np.where(each.stopped, found, above))
    return np.concatenate(places)
