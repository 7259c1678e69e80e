"""Percentile classes, by cross-entropy or as points on a line (SSJF paper, section 3).

Class limits are percentiles of the training lengths; every class weighs the same, as in
the paper's code, which divides by the classes' counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from predictor_svc.outputs import ClassesOutput, OrdinalOutput
from predictor_svc.training.data import Lengths
from predictor_svc.training.task import Targets, Uncalibrated, first_lengths
from predictor_svc.training.tasks.regression import Loss, distance


@dataclass(frozen=True, slots=True)
class Classes(Uncalibrated):
    """Cross-entropy over classes."""

    percentiles: tuple[float, ...]

    def output(self, lengths: Sequence[Lengths]) -> ClassesOutput:
        """Thresholds at the percentiles."""
        thresholds, medians = class_limits(lengths, self.percentiles)
        return ClassesOutput(thresholds=thresholds, class_tokens=medians)

    def targets(self, lengths: Sequence[Lengths], output: ClassesOutput) -> Targets:
        """The class of one label a prompt, and the weight of its class."""
        classes = output.class_of(first_lengths(lengths))
        counts = np.bincount(classes, minlength=output.class_count)
        weights = 1.0 / np.maximum(counts, 1)[classes]
        return {
            "classes": torch.tensor(classes),
            "weights": torch.tensor(weights, dtype=torch.float32),
        }

    def loss(self, raw: Tensor, targets: Targets, output: ClassesOutput) -> Tensor:  # noqa: ARG002
        """Weighted negative log-likelihood, normalised by the weights."""
        losses = functional.cross_entropy(raw, targets["classes"], reduction="none")
        return (losses * targets["weights"]).sum() / targets["weights"].sum()


@dataclass(frozen=True, slots=True)
class Ordinal(Uncalibrated):
    """The class as a number, by L1 or squared error."""

    percentiles: tuple[float, ...]
    loss_kind: Loss

    def output(self, lengths: Sequence[Lengths]) -> OrdinalOutput:
        """Thresholds at the percentiles."""
        thresholds, medians = class_limits(lengths, self.percentiles)
        return OrdinalOutput(thresholds=thresholds, class_tokens=medians)

    def targets(self, lengths: Sequence[Lengths], output: OrdinalOutput) -> Targets:
        """The class of one label a prompt, as a number."""
        classes = output.class_of(first_lengths(lengths))
        return {"classes": torch.tensor(classes, dtype=torch.float32)}

    def loss(self, raw: Tensor, targets: Targets, output: OrdinalOutput) -> Tensor:  # noqa: ARG002
        """Mean absolute or squared error."""
        return distance(raw[:, 0], targets["classes"], self.loss_kind)


def class_limits(
    lengths: Sequence[Lengths], percentiles: Sequence[float]
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Distinct lengths at the percentiles, and the median of each class.

    Raises ValueError where all lengths fall in one class.
    """
    tokens = first_lengths(lengths)
    # Lengths that occur, not values between two of them: so no class is empty.
    found = np.unique(np.quantile(tokens, percentiles, method="higher"))
    limits = found[(found > tokens.min()) & (found > 0)]
    if not len(limits):
        raise ValueError("all lengths are equal: there are no classes to learn")
    classes = np.searchsorted(limits, tokens, side="right")
    medians = [float(np.median(tokens[classes == each])) for each in range(len(limits) + 1)]
    return tuple(float(limit) for limit in limits), tuple(medians)
