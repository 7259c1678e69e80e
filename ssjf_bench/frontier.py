"""The trade of mean against tail: every policy at several settings, in every cell.

A cell is a trace, a batch size, a load and a quality of predictions. Owns the grid and the
settings; what is run and compared in a cell is `cell`'s.
Draws nothing: see `frontier_plots`. Called by `ssjf bench frontier`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf_bench import sim_run
from ssjf_bench.cell import Cell, Noise, Point, Row, over_seeds
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_run import Traffic
from ssjf_bench.step_time import StepTime
from ssjf_bench.trace import Trace


def _tails(longest: float, alpha: float | None) -> tuple[Point, ...]:
    variant = "" if longest == PolicyOptions().tail_longest else f" ×{longest:g}"
    return tuple(
        Point("tail-ssjf", tail, PolicyOptions(alpha, tail, longest), variant)
        for tail in (0.7, 0.9, 1.05, 1.2, 1.4, 1.7, 2.2, 3.0)
    )


UNBOUNDED: Final = float("inf")
POINTS: Final = (
    Point("ssjf"),
    *[Point("bounded-ssjf", each, PolicyOptions(alpha=each)) for each in (1.15, 1.3, 1.6, 2.5)],
    *_tails(longest=2.0, alpha=None),
    *_tails(longest=1.0, alpha=None),
    *_tails(longest=4.0, alpha=UNBOUNDED),
    Point("hrrn", options=PolicyOptions(hrrn_on_predictions=True)),
    *[
        Point("ssjf-ageing", each, PolicyOptions(ageing_s_per_token=each))
        for each in (0.02, 0.05, 0.15, 0.5)
    ],
)
"""Every policy that orders by length, with settings along its trade. The three curves of
tail-ssjf differ in how much longer the longest jobs may take."""


@dataclass(frozen=True, slots=True)
class Grid:
    """What is run."""

    traces: Mapping[str, Trace]
    """By name."""
    rows: Sequence[Answered]
    """Prompts with lengths; they replace the traces' own."""
    batches: Sequence[int] = (16, 64)
    """Places of the engine, continuous batching."""
    loads: Sequence[float] = (0.8, 0.95)
    """Shares of capacity."""
    taus: Sequence[float] = (0.60, 0.68)
    """Kendall's tau-b of the predictions."""
    seeds: Sequence[int] = (1,)
    """One run of everything for each."""
    points: Sequence[Point] = POINTS
    """Policies, beside fcfs and the oracle."""
    jobs: int | None = None
    """The first so many of each trace; None takes all."""
    step_time: StepTime = field(default_factory=StepTime)
    """The engine."""

    @property
    def runs(self) -> int:
        """Simulations in all."""
        offers = len(self.traces) * len(self.batches) * len(self.loads) * len(self.seeds)
        return offers * (2 + len(self.taus) * len(self.points))


def run(grid: Grid) -> Iterator[Row]:
    """A row for each simulation, as it ends: the cell, the point, its figures, the comparison."""
    for seed in grid.seeds:
        for name, trace in grid.traces.items():
            traffic = Traffic(trace, grid.rows, grid.jobs, seed)
            answered = traffic.answered()
            for batch in grid.batches:
                for load in grid.loads:
                    cell = {"arrivals": name, "batch": batch, "load": load, "seed": seed}
                    yield from _cells(grid, traffic, answered, cell)


def _cells(grid: Grid, traffic: Traffic, answered: Sequence[Answered], cell: Row) -> Iterator[Row]:
    """One offered load under every quality of predictions."""
    batching = Batching(Mode.CONTINUOUS, cell["batch"])
    offered = sim_run.offer(traffic, answered, cell["load"], batching.places, grid.step_time)
    simulated = Cell(offered, answered, batching, grid.step_time, traffic.seed)
    for source, point, figures in simulated.rows(grid.points, [Noise(tau) for tau in grid.taus]):
        named = {"label": point.label, "curve": point.curve, "setting": point.setting}
        yield cell | {"tau": source.tau if source else None} | named | figures


def averages(rows: Sequence[Row]) -> list[Row]:
    """Means over the seeds, a row for each cell and point; violations are added up.

    fcfs and oracle, which see no predictions, stand in the cells of every tau.
    """
    taus = sorted({row["tau"] for row in rows if row["tau"] is not None})
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        for tau in taus if row["tau"] is None else (row["tau"],):
            cell = (row["arrivals"], row["batch"], row["load"], tau)
            groups.setdefault((*cell, row["label"]), []).append(row)
    return [_average(key, group) for key, group in groups.items()]


def _average(key: tuple[Any, ...], group: Sequence[Row]) -> Row:
    names = ("arrivals", "batch", "load", "tau", "label")
    shared = {name: group[0][name] for name in ("policy", "curve", "setting")}
    return {**dict(zip(names, key, strict=True)), **shared, **over_seeds(group)}


def change_at(rows: Sequence[Row], curve: str, p99_factor: float) -> float | None:
    """A curve's change of the mean where its p99 is `p99_factor`, in one cell's averages.

    Linear between its settings; None outside of them.
    """
    points = sorted(
        (row["p99_jct_factor"], row["mean_jct_change"]) for row in rows if row["curve"] == curve
    )
    factors = [factor for factor, _ in points]
    if not factors or not factors[0] <= p99_factor <= factors[-1]:
        return None
    return float(np.interp(p99_factor, factors, [change for _, change in points]))


def cells(rows: Sequence[Row]) -> dict[tuple[str, int, float, float], list[Row]]:
    """The averages by (arrivals, batch, load, tau)."""
    found: dict[tuple[str, int, float, float], list[Row]] = {}
    for row in rows:
        key = (row["arrivals"], row["batch"], row["load"], row["tau"])
        found.setdefault(key, []).append(row)
    return found
