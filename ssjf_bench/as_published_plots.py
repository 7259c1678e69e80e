"""The paper's comparison, drawn: as published by predictor, and taken apart by artefact.

The grey band is what the paper's abstract reports. Written as PNG without a display.
Called by `ssjf bench as-published`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import matplotlib as mpl

from ssjf_bench.as_published import ORACLE, PAPER_JCT_CHANGES, PAPER_THROUGHPUT_FACTORS
from ssjf_bench.as_published_report import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Okabe and Ito's palette; a marker each, so that a print in grey is readable, too.
STYLES: Final = (
    *(("#D55E00", "o"), ("#0072B2", "s"), ("#CC79A7", "^"), ("#E69F00", "v"), ("#56B4E9", "D")),
    *(("#000000", "x"), ("#999999", "+"), ("#F0E442", "<"), ("#882255", ">")),
    *(("#332288", "P"), ("#AA4499", "p"), ("#661100", "h"), ("#6699CC", "8")),
)
ORACLE_STYLE: Final = ("#009E73", "*")
NONE_REMOVED: Final = "as published"


def draw(published: Sequence[Row], taken_apart: Sequence[Row], folder: Path) -> list[Path]:
    """Writes both figures; returns the files."""
    alone = [row for row in taken_apart if not row.get("alone") and row["predictor"] != ORACLE]
    return [
        _figure(
            published,
            folder / "as-published.png",
            "As published, by predictor: grey is the range of the paper's abstract",
            lambda row: (_batching(row), row["predictor"]),
        ),
        _figure(
            alone,
            folder / "as-published-artefacts.png",
            f"From as published to fair, with {alone[0]['predictor']}: each step takes one away",
            lambda row: (row.get("removed", NONE_REMOVED), _batching(row)),
        ),
    ]


def _batching(row: Row) -> str:
    return str(row["mode"]) if row["mode"] == "none" else f"{row['mode']} {row['batch']}"


def _figure(
    rows: Sequence[Row], path: Path, title: str, place: Callable[[Row], tuple[str, str]]
) -> Path:
    """A column for each kind of arrivals; `place` says where on the axis a row is, and in which
    curve."""
    mpl.use("Agg")
    from matplotlib import pyplot as plt

    kinds = list(dict.fromkeys(row["arrivals"] for row in rows))
    figure, axes = plt.subplots(
        2, len(kinds), figsize=(3.6 * len(kinds) + 1, 9), sharex=True, sharey="row", squeeze=False
    )
    for column, kind in enumerate(kinds):
        here = [(*place(row), row) for row in rows if row["arrivals"] == kind]
        _panel(axes[0][column], here, "mean_jct_change", PAPER_JCT_CHANGES, 100.0)
        _panel(axes[1][column], here, "throughput_factor", PAPER_THROUGHPUT_FACTORS, 1.0)
        axes[0][column].set_title(kind)
        axes[1][column].tick_params("x", rotation=90)
    axes[0][0].set_ylabel("mean JCT against FCFS (%)")
    axes[1][0].set_ylabel("“throughput”, × FCFS")
    handles, labels = axes[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=6, frameon=False)
    figure.suptitle(title)
    figure.tight_layout(rect=(0, 0.07, 1, 1))
    figure.savefig(path, dpi=110)
    plt.close(figure)
    return path


def _panel(
    axis: Axes,
    rows: Sequence[tuple[str, str, Any]],
    name: str,
    paper: tuple[float, float],
    scale: float,
) -> None:
    places = list(dict.fromkeys(place for place, _, _ in rows))
    curves = list(dict.fromkeys(curve for _, curve, _ in rows))
    axis.axhspan(scale * paper[0], scale * paper[1], color="#BBBBBB", alpha=0.4)
    styles = iter(STYLES * (1 + len(curves) // len(STYLES)))
    for curve in curves:
        colour, marker = ORACLE_STYLE if curve == ORACLE else next(styles)
        points = [(places.index(place), row) for place, of, row in rows if of == curve]
        axis.errorbar(
            [at for at, _ in points],
            [scale * row[name] for _, row in points],
            yerr=[
                [scale * (row[name] - row[f"{name}_least"]) for _, row in points],
                [scale * (row[f"{name}_greatest"] - row[name]) for _, row in points],
            ],
            color=colour,
            marker=marker,
            markersize=5,
            linewidth=1.2,
            label=curve,
        )
    axis.set_xticks(range(len(places)), places)
    axis.grid(alpha=0.25)
