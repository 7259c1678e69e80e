"""Plots of live runs, written as PNG without a display: a panel for each cell.

Draws what the raw rows of valid runs say: completion times by policy and by length of the
answer, the queue over time, mean against tail, and the gain against the load. Figures and
comparisons are `live_report`'s, looks `policy_styles`'. Called by `ssjf bench live`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl
import numpy as np

from ssjf_bench import live_report
from ssjf_bench.live_cells import Cell, cells
from ssjf_bench.live_records import LiveRow, RunHeader
from ssjf_bench.plots import cdf
from ssjf_bench.policy_styles import styles

if TYPE_CHECKING:
    from matplotlib.axes import Axes

PANEL_IN: Final = (5.4, 3.9)
"""Width and height of a panel, inches."""
DOTS_PER_IN: Final = 110
FACTOR_TICKS: Final = (
    *(0.01, 0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5, 0.7),
    *(1, 1.5, 2, 3, 5, 8, 12, 20, 50),
)
NARROW_TICKS: Final = (0.5, 0.6, 0.7, 0.8, 0.9, 1, 1.1, 1.2, 1.3, 1.4, 1.6, 1.8, 2, 2.5, 3)
"""Where an axis reaches over less than a factor of `NARROW`."""
NARROW: Final = 2.2


def draw(rows: Iterable[LiveRow], headers: Sequence[RunHeader], folder: Path) -> list[Path]:
    """Writes every figure for which there are valid runs; returns the files."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    found = cells(headers, rows)
    compared = [each for each in found if each.fcfs is not None]
    drawn = [
        _figure(folder / "jct-cdf.png", "Job completion times", found, _cdfs),
        _figure(folder / "queue-depth.png", "Requests waiting", found, _queues),
        _figure(folder / "jct-by-length.png", "Who gains, who pays", compared, _lengths),
        _figure(
            folder / "mean-against-p99.png",
            "Mean against tail: lower left is better",
            compared,
            _mean_against_p99,
        ),
        _by_load(folder / "gain-against-load.png", compared),
    ]
    return [path for path in drawn if path is not None]


def draw_against(live: Sequence[Cell], simulated: Sequence[Cell], folder: Path) -> Path | None:
    """Writes completion times as measured and as simulated; None where nothing is simulated."""
    mpl.use("Agg")
    folder.mkdir(parents=True, exist_ok=True)
    other = {cell.key: cell for cell in simulated}
    both = [cell for cell in live if cell.key in other]
    return _figure(
        folder / "live-against-sim.png",
        "Completion times: live (lines) and simulated (circles)",
        both,
        lambda axis, cell: _cdfs_against(axis, cell, other[cell.key]),
    )


def _figure(
    path: Path, title: str, panels: Sequence[Cell], panel: Callable[[Axes, Cell], None]
) -> Path | None:
    """A panel for each cell, two in a row; None where there is none."""
    if not panels:
        return None
    from matplotlib import pyplot as plt

    columns = min(2, len(panels))
    lines = -(-len(panels) // columns)
    size = (PANEL_IN[0] * max(columns, 1.3), PANEL_IN[1] * lines + 0.5)
    figure, axes = plt.subplots(lines, columns, figsize=size, squeeze=False)
    for axis, each in zip(axes.flat, panels, strict=False):
        panel(axis, each)
        axis.set_title(each.title, fontsize=10)
        axis.grid(alpha=0.25)
        axis.set_axisbelow(True)
    for axis in axes.flat[len(panels) :]:
        axis.set_visible(False)
    figure.suptitle(title)
    figure.tight_layout()
    figure.savefig(path, dpi=DOTS_PER_IN)
    plt.close(figure)
    return path


def _cdfs(axis: Axes, of: Cell) -> None:
    """Shares of requests that have finished by a time since their arrival, all repeats."""
    looks = styles(of.labels)
    for label in looks:
        xs, ys = cdf(of.jct_s(label))
        mean = f"{label}  (mean {np.mean(xs[1:]):.2f} s)"
        look = looks[label]
        axis.step(xs[1:], ys[1:], where="post", color=look.colour, linestyle=look.line, label=mean)
    axis.set(xscale="log", xlabel="completion time (s)", ylabel="share finished", ylim=(0, 1.02))
    _plain_numbers(axis.xaxis)
    axis.legend(loc="upper left", frameon=False, fontsize=8)


def _cdfs_against(axis: Axes, live: Cell, simulated: Cell) -> None:
    """The live distributions, and some quantiles of the simulated ones."""
    _cdfs(axis, live)
    shares = np.linspace(0.02, 0.99, 30)
    looks = styles(live.labels)
    for label in simulated.labels:
        quantiles_s = np.quantile(simulated.jct_s(label), shares)
        axis.plot(
            quantiles_s, shares, linestyle="", marker="o", markersize=4.5,
            markerfacecolor="none", color=looks[label].colour,
        )  # fmt: skip


def _queues(axis: Axes, of: Cell) -> None:
    """Requests that have arrived and not started, in the first valid repeat of each policy."""
    looks = styles(of.labels)
    for label in looks:
        times_s, waiting = queue_depth(of.first(label))
        look = looks[label]
        axis.step(
            times_s, waiting, where="post", color=look.colour, linestyle=look.line,
            linewidth=1.2, label=f"{label}  (most {max(waiting)})",
        )  # fmt: skip
    axis.set(xlabel="time (s)", ylabel="requests waiting", ylim=(0, None))
    axis.legend(frameon=False, fontsize=8)


def queue_depth(rows: Sequence[LiveRow]) -> tuple[list[float], list[int]]:
    """Times, rising, and how many requests wait from each on; it ends with nobody waiting.

    Warm-up waits in the same queue, so it counts here.
    """
    changes: dict[float, int] = {}
    for row in rows:
        left_s = row.started_s if row.started_s is not None else row.end_s
        if left_s is not None:
            changes[row.arrival_s] = changes.get(row.arrival_s, 0) + 1
            changes[left_s] = changes.get(left_s, 0) - 1
    times_s = sorted(changes)
    return times_s, np.cumsum([changes[at_s] for at_s in times_s]).tolist()


def _lengths(axis: Axes, of: Cell) -> None:
    """Mean completion time by length of the answer, as a multiple of FCFS's."""
    buckets = length_buckets(of)
    looks = {label: look for label, look in styles(of.labels).items() if label != of.fcfs}
    width = 0.8 / max(1, len(looks))
    places = np.arange(len(buckets))
    for index, (label, look) in enumerate(looks.items()):
        factors = [bucket["factors"][label] for bucket in buckets]
        at = places + (index - (len(looks) - 1) / 2) * width
        # From 1 up or down: what is below gains, what is above pays.
        axis.bar(at, np.array(factors) - 1, width, bottom=1, color=look.colour, label=label)
    axis.axhline(1, color="black", linewidth=0.8)
    names = [
        f"{each['least']}–{each['most']} tokens\nFCFS {each['fcfs_s']:.2f} s" for each in buckets
    ]
    axis.set_xticks(places, names, fontsize=7)
    axis.set(yscale="log", ylabel="mean completion time, multiple of FCFS")
    _factors(axis.yaxis)
    axis.legend(frameon=False, fontsize=8)


def length_buckets(of: Cell, count: int = 5) -> list[dict[str, Any]]:
    """Fifths of the requests by actual length, short to long: `least` and `most` tokens,
    `fcfs_s` (mean completion time under FCFS), and `factors` of it by label."""
    assert of.fcfs is not None  # noqa: S101 (asked for cells with FCFS only)
    lengths = [tokens for tokens, _ in of.tokens_and_jct_s(of.fcfs)]
    edges = np.unique(np.quantile(lengths, np.linspace(0, 1, count + 1)[1:-1], method="lower"))
    means = {label: _means(of.tokens_and_jct_s(label), edges) for label in of.labels}
    which = np.searchsorted(edges, lengths)
    found = []
    for bucket in np.unique(which):
        inside = np.array(lengths)[which == bucket]
        fcfs_s = means[of.fcfs][int(bucket)]
        found.append(
            {
                "least": int(inside.min()),
                "most": int(inside.max()),
                "fcfs_s": fcfs_s,
                "factors": {
                    label: mean_s.get(int(bucket), float("nan")) / fcfs_s
                    for label, mean_s in means.items()
                },
            }
        )
    return found


def _means(
    pairs: Sequence[tuple[int, float]], edges: np.ndarray[Any, np.dtype[Any]]
) -> dict[int, float]:
    """Mean completion time by bucket."""
    which = np.searchsorted(edges, [tokens for tokens, _ in pairs])
    jct_s = np.array([each_s for _, each_s in pairs])
    return {int(bucket): float(jct_s[which == bucket].mean()) for bucket in np.unique(which)}


def _mean_against_p99(axis: Axes, of: Cell) -> None:
    """A point for each run, a large one for the mean of the repeats."""
    for label, look in styles(of.labels).items():
        points = [
            (each["p99_jct_factor"], 100 * each["mean_jct_change"])
            for each in of.summaries
            if each["label"] == label and each["compared"] is None
        ]
        if not points:
            continue
        known = np.array(points)
        shape: dict[str, Any] = {"color": look.colour, "marker": look.marker, "linestyle": ""}
        if len(known) > 1:
            axis.plot(known[:, 0], known[:, 1], markersize=3.5, alpha=0.5, **shape)
        x, y = known.mean(axis=0)
        change = f"{y:+.0f}".replace("-", "−")
        told = label if label == of.fcfs else f"{label}  ({change} %, {x:.2f} ×)"
        axis.plot([x], [y], markersize=9, label=told, **shape)
    axis.set(
        xscale="log", xlabel="p99 completion time, multiple of FCFS",
        ylabel="mean completion time against FCFS (%)",
    )  # fmt: skip
    _factors(axis.xaxis)
    axis.legend(frameon=False, fontsize=8)


def _by_load(path: Path, compared: Sequence[Cell]) -> Path | None:
    """Change of the mean, and p99, at each load; None where no setting was run at several."""
    groups: dict[tuple[Any, ...], list[Cell]] = {}
    for each in compared:
        groups.setdefault(each.key[:-1], []).append(each)
    several = [sorted(group, key=lambda c: c.load) for group in groups.values() if len(group) > 1]
    if not several:
        return None
    from matplotlib import pyplot as plt

    size = (PANEL_IN[0] * 2, PANEL_IN[1] * len(several) + 0.5)
    figure, axes = plt.subplots(len(several), 2, figsize=size, squeeze=False)
    for (left, right), group in zip(axes, several, strict=True):
        _load_panel(left, group, "mean_jct_change", 100, "mean against FCFS (%)")
        _load_panel(right, group, "p99_jct_factor", 1, "p99, multiple of FCFS")
        right.set_yscale("log")
        _factors(right.yaxis)
        left.legend(frameon=False, fontsize=8)
    figure.suptitle("Completion times against the load, range over repeats")
    figure.tight_layout()
    figure.savefig(path, dpi=DOTS_PER_IN)
    plt.close(figure)
    return path


def _load_panel(axis: Axes, group: Sequence[Cell], name: str, scale: float, what: str) -> None:
    rows = live_report.spread([each for cell in group for each in cell.summaries])
    for label, look in styles(row["label"] for row in rows).items():
        mine = [row for row in rows if row["label"] == label and row[name] is not None]
        middle = scale * np.array([row[name] for row in mine])
        low = middle - scale * np.array([row[f"{name}_min"] for row in mine])
        high = scale * np.array([row[f"{name}_max"] for row in mine]) - middle
        axis.errorbar(
            [row["load"] for row in mine], middle, yerr=np.maximum([low, high], 0), capsize=3,
            color=look.colour, linestyle=look.line, marker=look.marker, label=label,
        )  # fmt: skip
    loads = [each.load for each in group]
    axis.set_xticks(loads, [f"{load:g}" for load in loads])
    axis.set(xlabel="load (share of measured capacity)", ylabel=what)
    axis.set_title(group[0].title.rpartition(", load")[0], fontsize=10)
    axis.grid(alpha=0.25)


def _factors(axis: Any) -> None:
    """Ticks where people read factors, as far as the axis reaches, without powers of ten."""
    low, high = axis.get_view_interval()
    known = FACTOR_TICKS if high / low > NARROW else NARROW_TICKS
    ticks = [tick for tick in known if low <= tick <= high]
    if len(ticks) >= 2:
        axis.set_ticks(ticks, [f"{tick:g}" for tick in ticks])
        axis.set_minor_locator(mpl.ticker.NullLocator())
    else:
        _plain_numbers(axis)


def _plain_numbers(axis: Any) -> None:
    axis.set_major_formatter(mpl.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(mpl.ticker.NullFormatter())
