"""A sweep drawn: a panel for each arrivals and batching, a line for each policy over the load.

Owns the figures: change of the mean, 99th percentile, share of the oracle's gain; and what
burstiness makes of the gain. Written as PNG without a display. Called by `ssjf bench sweep`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Final

import matplotlib as mpl

from gateway_svc.scheduling import policy
from ssjf_bench.cell import Row
from ssjf_bench.frontier_plots import in_order

if TYPE_CHECKING:
    from matplotlib.axes import Axes

P99_TICKS: Final = (0.25, 0.5, 1, 2, 4, 8)


@dataclass(frozen=True, slots=True)
class Quantity:
    """What a figure shows."""

    name: str
    """Of its file."""
    title: str
    value: Callable[[Row], float | None]
    """Of an average; None leaves a gap."""
    same: float = 0.0
    """What fcfs has."""
    is_ratio: bool = False
    """Drawn on a logarithmic axis."""


def _percent(name: str) -> Callable[[Row], float | None]:
    return lambda row: None if row[name] is None else 100 * row[name]


QUANTITIES: Final = (
    Quantity("gain", "Mean completion time against FCFS (%)", _percent("mean_jct_change")),
    Quantity("share", "Share of the oracle's gain (%)", _percent("share_of_oracle_gain")),
    Quantity(
        "p99",
        "99th percentile of completion time, multiple of FCFS's",
        lambda row: row["p99_jct_factor"],
        1,
        True,
    ),
)


def draw(averages: Sequence[Row], folder: Path, source: str, names: Sequence[str]) -> list[Path]:
    """Writes a figure for each quantity; predictions of one source, these arrivals only."""
    rows = [
        row for row in averages if row["arrivals"] in names and row["predictions"] in (source, None)
    ]
    paths = [folder / f"sweep-{quantity.name}.png" for quantity in QUANTITIES]
    for quantity, path in zip(QUANTITIES, paths, strict=True):
        _figure(rows, names, quantity, "load", described(source), path)
    return paths


def _figure(
    rows: Sequence[Row], names: Sequence[str], quantity: Quantity, over: str, told: str, path: Path
) -> None:
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    batchings = list(dict.fromkeys((row["mode"], row["batch"]) for row in rows))
    figure, axes = plt.subplots(
        len(names),
        len(batchings),
        figsize=(2.1 * len(batchings) + 0.6, 1.75 * len(names) + 1.1),
        sharex=True,
        sharey=True,
        squeeze=False,
    )
    for axis, (name, batching) in zip(axes.flat, product(names, batchings), strict=True):
        there = [
            row for row in rows if (row["arrivals"], row["mode"], row["batch"]) == (name, *batching)
        ]
        _panel(axis, quantity, there)
    for axis, (mode, batch) in zip(axes[0], batchings, strict=True):
        axis.set_title("no batching" if mode == "none" else f"{mode}, {batch}", fontsize=10)
    for axis, name in zip(axes[:, 0], names, strict=True):
        axis.set_ylabel(name, fontsize=9)
    for axis in axes[-1]:
        axis.set_xlabel(over, fontsize=9)
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower center", ncols=len(labels), frameon=False)
    figure.suptitle(f"{quantity.title}; predictions: {told}", fontsize=11)
    figure.tight_layout(rect=(0, 0.3 / figure.get_figheight(), 1, 1))
    figure.savefig(path, dpi=100)
    plt.close(figure)


def described(source: str) -> str:
    """A source's label in words."""
    return f"τ-b {source}" if source.replace(".", "", 1).isdigit() else source


def _panel(axis: Axes, quantity: Quantity, rows: Sequence[Row]) -> None:
    # fcfs is the axis
    drawn = {row["policy"] for row in rows} - {"fcfs"}
    for name, (colour, marker, line) in in_order(drawn).items():
        points = sorted(
            (row["load"], value)
            for row in rows
            if row["policy"] == name and (value := quantity.value(row)) is not None
        )
        axis.plot(
            [load for load, _ in points],
            [value for _, value in points],
            color=colour,
            marker=marker,
            markersize=4,
            linestyle=line,
            linewidth=1.3,
            label=f"{name} (default)" if name == policy.DEFAULT else name,
        )
    axis.axhline(quantity.same, color="#000000", linewidth=0.6)
    if quantity.is_ratio:
        axis.set_yscale("log")
        axis.set_yticks(P99_TICKS, [f"{tick:g}" for tick in P99_TICKS])
        axis.minorticks_off()
    axis.grid(alpha=0.25)


def draw_burstiness(
    averages: Sequence[Row], cvs: Mapping[str, float], folder: Path, source: str, load: float
) -> Path:
    """Writes the change of the mean over the CV of arrivals' gaps, a panel for each batching.

    `cvs` names the arrivals that differ in it alone.
    """
    rows = [
        row | {"load": cvs[row["arrivals"]], "arrivals": "gamma"}
        for row in averages
        if row["arrivals"] in cvs and row["load"] == load and row["predictions"] in (source, None)
    ]
    path = folder / "sweep-burstiness.png"
    told = f"{described(source)}, load {load:g}"
    _figure(rows, ["gamma"], QUANTITIES[0], "CV of the gaps", told, path)
    return path
