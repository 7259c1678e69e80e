"""Labels and loss of the length distribution, learnt from several samples a prompt.

Owns two terms. The likelihood: a soft label around each sampled length, and for an
answer cut at the limit the probability of everything from there on (a censored
observation, as in survival analysis). The ranking: for two prompts, the probability
that a sample of one is longer than a sample of the other, through a sigmoid on the
difference of their rank scores. Called by `train`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from predictor_svc.training.data import Lengths
from predictor_svc.training.tasks import Task

RANKED_SAMPLES = 8
"""Samples a prompt that the pairwise term compares at most; the term costs their square."""


@dataclass(frozen=True, slots=True)
class Labels:
    """Targets of n prompts."""

    ended: Tensor
    """(n, bins): soft labels of the answers that ended, over all samples of the prompt."""
    cut: Tensor
    """(n, bins): share of samples that were cut in each bin."""
    samples: Tensor
    """(n, RANKED_SAMPLES) sampled lengths, repeated where a prompt has fewer."""

    def to(self, device: torch.device) -> Labels:
        """The same on another device."""
        return Labels(self.ended.to(device), self.cut.to(device), self.samples.to(device))

    def rows(self, index: Tensor) -> Labels:
        """Those of some prompts."""
        return Labels(self.ended[index], self.cut[index], self.samples[index])


def make_labels(lengths: Sequence[Lengths], task: Task) -> Labels:
    """Labels of each prompt, every prompt with the same total weight."""
    ended = np.zeros((len(lengths), task.bins.count))
    cut = np.zeros_like(ended)
    samples = np.zeros((len(lengths), RANKED_SAMPLES))
    for row, each in enumerate(lengths):
        tokens, stopped = np.array(each.tokens, dtype=float), np.array(each.stopped)
        share = 1.0 / len(tokens)
        soft = task.bins.soft_labels(tokens[stopped], task.label_width_bins)
        ended[row] = soft.sum(axis=0) * share
        np.add.at(cut[row], task.bins.index(tokens[~stopped]), share)
        samples[row] = np.resize(tokens, RANKED_SAMPLES)
    return Labels(*(torch.tensor(each, dtype=torch.float32) for each in (ended, cut, samples)))


def distribution_loss(logits: Tensor, labels: Labels, rank_values: Tensor, task: Task) -> Tensor:
    """The sum of both terms, a scalar; logits are (n, bins), rank_values (bins,)."""
    logs = logits.float().log_softmax(dim=1)
    loss = _likelihood(logs, labels)
    if task.ranking_weight and len(logits) > 1:
        scores = logs.exp() @ rank_values
        loss = loss + task.ranking_weight * _ranking(scores, labels.samples, task.ranking_scale)
    return loss


def _likelihood(logs: Tensor, labels: Labels) -> Tensor:
    beyond = logs.flip(1).logcumsumexp(dim=1).flip(1)
    return -(labels.ended * logs + labels.cut * beyond).sum(dim=1).mean()


def _ranking(scores: Tensor, samples: Tensor, scale: float) -> Tensor:
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
