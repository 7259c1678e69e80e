"""What a training task is: the contract of every file under `tasks/`.

Owns the shape alone. A task turns sampled lengths into targets, says what the network's
numbers mean, and scores them. `tasks` registers them; `train` and `recipes` use them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeVar

import numpy as np
from torch import Tensor

from predictor_svc.lengths import Floats
from predictor_svc.outputs import Output
from predictor_svc.training.data import Lengths

Targets = dict[str, Tensor]
"""Named tensors whose first axis is the prompt."""
Kind = TypeVar("Kind", bound=Output)


class Task(Protocol[Kind]):
    """One way to learn lengths."""

    def output(self, lengths: Sequence[Lengths]) -> Kind:
        """What the network will give, fitted to training lengths: bins, classes, scale."""

    def targets(self, lengths: Sequence[Lengths], output: Kind) -> Targets:
        """What each prompt's outputs are compared with."""

    def loss(self, raw: Tensor, targets: Targets, output: Kind) -> Tensor:
        """A scalar; raw is (n, output.width) float32, targets those of the same n prompts."""

    def calibrated(self, output: Kind, raw: Floats, lengths: Sequence[Lengths], seed: int) -> Kind:
        """The output with what is read off held-back prompts: (n, width) and their lengths."""


class Uncalibrated:
    """For tasks whose output is complete before training."""

    __slots__ = ()

    def calibrated(
        self,
        output: Kind,
        raw: Floats,  # noqa: ARG002
        lengths: Sequence[Lengths],  # noqa: ARG002
        seed: int,  # noqa: ARG002
    ) -> Kind:
        """The output as it is."""
        return output


def first_lengths(lengths: Sequence[Lengths]) -> Floats:
    """(n,) the first sample of each prompt: the one label that the SSJF paper learns from."""
    return np.array([each.tokens[0] for each in lengths], dtype=np.float64)
