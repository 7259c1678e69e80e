"""Mean against tail, drawn: a panel for each cell, a curve for each policy's settings.

Left and below is better. Written as PNG without a display. Called by `ssjf bench frontier`.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib as mpl

from ssjf_bench import frontier
from ssjf_bench.cell import Row
from ssjf_bench.policy_styles import STYLES as POLICIES

if TYPE_CHECKING:
    from matplotlib.axes import Axes

_SOLID: Final = {name: (each.colour, each.marker, "-") for name, each in POLICIES.items()}
_TAIL: Final = POLICIES["tail-ssjf"].colour
STYLES: Final[Mapping[str, tuple[str, str, str]]] = {
    **{name: _SOLID[name] for name in ("fcfs", "oracle", "ssjf", "bounded-ssjf")},
    "tail-ssjf ×1": (_TAIL, "<", ":"),
    "tail-ssjf": _SOLID["tail-ssjf"],
    "tail-ssjf ×4": (_TAIL, ">", "--"),
    **{name: _SOLID[name] for name in ("hrrn", "ssjf-ageing")},
}
"""Colour, marker and line of each curve."""
UNKNOWN: Final = ("#666666", ".", "-")
TICKS: Final = (0.7, 1, 1.2, 1.5, 2, 3, 5, 8)


def draw(averages: Sequence[Row], folder: Path) -> list[Path]:
    """Writes a figure for each quality of predictions; returns the files."""
    by_tau: dict[float, dict[tuple[str, int, float], list[Row]]] = {}
    for (name, batch, load, tau), rows in frontier.cells(averages).items():
        by_tau.setdefault(tau, {})[name, batch, load] = rows
    return [_figure(tau, panels, folder) for tau, panels in by_tau.items()]


def _figure(
    tau: float, panels: Mapping[tuple[str, int, float], Sequence[Row]], folder: Path
) -> Path:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    columns = min(4, len(panels))
    lines = -(-len(panels) // columns)
    figure, axes = plt.subplots(
        lines, columns, figsize=(4.1 * columns, 3.5 * lines + 0.8), sharey=True, squeeze=False
    )
    for axis, ((name, batch, load), rows) in zip(axes.flat, panels.items(), strict=False):
        _panel(axis, rows)
        axis.set_title(f"{name}, batch {batch}, load {load:g}", fontsize=10)
    for axis in axes[:, 0]:
        axis.set_ylabel("mean completion time against FCFS (%)")
    for axis in axes[-1]:
        axis.set_xlabel("p99 completion time, multiple of FCFS")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"Mean against tail, predictions at τ-b {tau:.2f}: lower left is better")
    figure.tight_layout(rect=(0, 0.05, 1, 1))
    path = folder / f"frontier-tau-{tau:.2f}.png"
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _panel(axis: Axes, rows: Sequence[Row]) -> None:
    for curve, (colour, marker, line) in in_order({row["curve"] for row in rows}).items():
        points = sorted(
            (row["p99_jct_factor"], 100 * row["mean_jct_change"])
            for row in rows
            if row["curve"] == curve
        )
        axis.plot(
            [factor for factor, _ in points],
            [change for _, change in points],
            color=colour,
            marker=marker,
            markersize=6,
            linestyle=line,
            linewidth=1.5,
            label=curve,
        )
    axis.set_xscale("log")
    axis.set_xticks(TICKS, [f"{tick:g}" for tick in TICKS])
    axis.minorticks_off()
    axis.grid(alpha=0.25)


def in_order(curves: Collection[str]) -> dict[str, tuple[str, str, str]]:
    """The looks of these curves: known ones in a fixed order, then others by name."""
    known = {name: style for name, style in STYLES.items() if name in curves}
    return known | dict.fromkeys(sorted(set(curves) - known.keys()), UNKNOWN)
