"""Regression on the length itself (SSJF paper, section 3: task type 0)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from predictor_svc.outputs import TokensOutput
from predictor_svc.training.data import Lengths
from predictor_svc.training.task import Targets, Uncalibrated, first_lengths

Loss = Literal["l1", "mse"]


@dataclass(frozen=True, slots=True)
class Regression(Uncalibrated):
    """Tokens, as a plain number: the paper scales nothing, so neither does this."""

    loss_kind: Loss

    def output(self, lengths: Sequence[Lengths]) -> TokensOutput:  # noqa: ARG002
        """Unscaled tokens."""
        return TokensOutput(scale_tokens=1.0)

    def targets(self, lengths: Sequence[Lengths], output: TokensOutput) -> Targets:
        """One label a prompt."""
        labels = first_lengths(lengths) / output.scale_tokens
        return {"labels": torch.tensor(labels, dtype=torch.float32)}

    def loss(self, raw: Tensor, targets: Targets, output: TokensOutput) -> Tensor:  # noqa: ARG002
        """Mean absolute or squared error."""
        return distance(raw[:, 0], targets["labels"], self.loss_kind)


def distance(values: Tensor, labels: Tensor, kind: Loss) -> Tensor:
    """The paper's two losses on a single number."""
    loss = functional.l1_loss if kind == "l1" else functional.mse_loss
    return loss(values, labels)
