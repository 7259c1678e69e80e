"""Which of two prompts has the longer answer (SSJF repository, pairwise prediction).

The paper's code reads both prompts of a pair at once, which costs a queue of n jobs n²
runs; here each prompt gets one score and a pair is decided by their difference (RankNet,
Burges et al. 2005), which orders a queue with n runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from predictor_svc.lengths import Floats
from predictor_svc.outputs import ScoreOutput
from predictor_svc.training.data import Lengths
from predictor_svc.training.task import Targets, first_lengths

KNOTS = 65
"""Points of the table from score to tokens."""


@dataclass(frozen=True, slots=True)
class Pairwise:
    """A score, by the order of one label a prompt within each batch."""

    def output(self, lengths: Sequence[Lengths]) -> ScoreOutput:
        """A table of no meaning until `calibrated` has filled it."""
        ends = np.quantile(first_lengths(lengths), (0.0, 1.0))
        return ScoreOutput(scores=(-1.0, 1.0), tokens=(float(ends[0]), float(ends[1])))

    def targets(self, lengths: Sequence[Lengths], output: ScoreOutput) -> Targets:  # noqa: ARG002
        """One label a prompt."""
        return {"labels": torch.tensor(first_lengths(lengths), dtype=torch.float32)}

    def loss(self, raw: Tensor, targets: Targets, output: ScoreOutput) -> Tensor:  # noqa: ARG002
        """Mean logistic loss over the ordered pairs of the batch; equal labels decide nothing."""
        labels = targets["labels"]
        longer = (labels[:, None] > labels[None, :]).float()
        losses = functional.softplus(raw[None, :, 0] - raw[:, None, 0])
        return (losses * longer).sum() / longer.sum().clamp(min=1.0)

    def calibrated(
        self,
        output: ScoreOutput,  # noqa: ARG002
        raw: Floats,
        lengths: Sequence[Lengths],
        seed: int,  # noqa: ARG002
    ) -> ScoreOutput:
        """Quantiles of the scores matched with those of the lengths."""
        at = np.linspace(0.0, 1.0, KNOTS)
        scores = np.quantile(raw[:, 0], at)
        tokens = np.quantile(first_lengths(lengths), at)
        return ScoreOutput(scores=tuple(scores.tolist()), tokens=tuple(tokens.tolist()))
