"""What can be learnt: named configurations of labels, loss and head.

Owns the registry. A task is data; `model` and `train` read it. Adding one is adding an
entry (and, for a new kind of loss, a branch in `losses`).
"""

from __future__ import annotations

from dataclasses import dataclass

from predictor_svc.lengths import LengthBins


@dataclass(frozen=True, slots=True)
class Task:
    """One way to learn lengths."""

    name: str
    bins: LengthBins
    label_width_bins: float
    """Standard deviation of the Gaussian that a sampled length spreads over the bins."""
    ranking_weight: float
    """Weight of the pairwise term beside the likelihood."""
    ranking_scale: float
    """Slope of the pairwise sigmoid on the difference of two rank scores in 0..1."""
    quantiles: tuple[float, ...]


TASKS = {
    task.name: task
    for task in (
        Task(
            name="distribution",
            bins=LengthBins(count=48, top_tokens=1024, beyond_tokens=1448),
            label_width_bins=1.0,
            ranking_weight=1.0,
            ranking_scale=8.0,
            quantiles=(0.1, 0.25, 0.5, 0.75, 0.9, 0.95),
        ),
    )
}
DEFAULT_TASK = "distribution"
