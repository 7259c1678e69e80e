"""Plots of replays, written as PNG without a display.

Owns the steps of a distribution and the demo's figure; how policies look is
`policy_styles`'.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import matplotlib as mpl
import numpy as np

from ssjf_bench.policy_styles import styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes


def jct_cdfs(panels: Mapping[str, Mapping[str, Sequence[float]]], path: Path) -> None:
    """Writes a panel for each arrival process: title → policy → completion times, seconds."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(
        1, len(panels), figsize=(5.2 * len(panels), 4), sharey=True, squeeze=False
    )
    for axis, (title, by_policy) in zip(axes[0], panels.items(), strict=True):
        _panel(axis, title, by_policy)
    axes[0][0].set_ylabel("share of requests finished")
    figure.suptitle("Job completion time by policy: same prompts, seeds and arrivals")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    plt.close(figure)


def _panel(axis: Axes, title: str, by_policy: Mapping[str, Sequence[float]]) -> None:
    looks = styles(by_policy)
    for policy, times_s in by_policy.items():
        colour, line = looks[policy].colour, looks[policy].line
        xs, ys = cdf(times_s)
        mean_s = float(np.mean(times_s))
        label = f"{policy}  (mean {mean_s:.1f} s)"
        axis.step(xs, ys, where="post", color=colour, linestyle=line, linewidth=2, label=label)
        axis.axvline(mean_s, color=colour, linestyle=line, linewidth=0.8, alpha=0.6)
    axis.set(title=title, xlabel="job completion time (s)", ylim=(0, 1.02), xlim=(0, None))
    axis.grid(alpha=0.25)
    axis.legend(loc="lower right", frameon=False)


def cdf(values: Sequence[float]) -> tuple[list[float], list[float]]:
    """Steps of the empirical distribution function: it starts at (0, 0), ends at (max, 1)."""
    ordered = sorted(values)
    shares = [(index + 1) / len(ordered) for index in range(len(ordered))]
    return [0.0, *ordered], [0.0, *shares]
