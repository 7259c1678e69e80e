"""The trade of mean against tail: every policy at several settings, in every cell.

A cell is a trace, a batch size, a load and a quality of predictions. Owns the grid, the
comparison with first come, first served and with the oracle, and the averages over seeds.
Draws nothing: see `frontier_plots`. Called by `ssjf bench frontier`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any, Final

import numpy as np

from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf_bench import sim_report, sim_run
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_predictions import Predictions
from ssjf_bench.sim_run import Traffic
from ssjf_bench.simulator import Setup
from ssjf_bench.step_time import StepTime
from ssjf_bench.trace import Trace

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Point:
    """A policy at one setting."""

    policy: str
    """Its name in the registry."""
    setting: float | None = None
    """The value of what it trades mean against tail with; None where there is nothing."""
    options: PolicyOptions = field(default_factory=PolicyOptions)
    """The same for the policy."""
    variant: str = ""
    """What tells curves of one policy apart."""

    @property
    def curve(self) -> str:
        """The points of one curve differ in their setting alone."""
        return f"{self.policy}{self.variant}"

    @property
    def label(self) -> str:
        """Curve and setting."""
        return self.curve if self.setting is None else f"{self.curve} {self.setting:g}"


def _tails(longest: float, alpha: float | None) -> tuple[Point, ...]:
    variant = "" if longest == PolicyOptions().tail_longest else f" ×{longest:g}"
    return tuple(
        Point("tail-ssjf", tail, PolicyOptions(alpha, tail, longest), variant)
        for tail in (0.7, 0.9, 1.05, 1.2, 1.4, 1.7, 2.2, 3.0)
    )


UNBOUNDED: Final = float("inf")
FCFS: Final = Point("fcfs")
ORACLE: Final = Point("oracle")
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
    truth = sim_run.noise(answered, traffic.seed, sigma=0.0)

    def simulated(point: Point, predictions: Predictions) -> Row:
        setup = Setup(point.policy, point.options, batching, grid.step_time)
        return sim_run.figures(offered, predictions, setup)

    fcfs, oracle = simulated(FCFS, truth), simulated(ORACLE, truth)
    for point, figures in ((FCFS, fcfs), (ORACLE, oracle)):
        yield _row(cell | {"tau": None}, point, figures, fcfs, oracle)
    for tau in grid.taus:
        predictions = sim_run.noise(answered, traffic.seed, tau=tau)
        for point in grid.points:
            figures = simulated(point, predictions)
            yield _row(cell | {"tau": tau}, point, figures, fcfs, oracle)


KEPT: Final = (
    *("policy", "kendall_tau_b", "jobs", "mean_jct_s", "p50_jct_s", "p99_jct_s", "max_jct_s"),
    *("max_wait_s", "mean_ttft_s", "throughput_tokens_s", "bound_violations"),
    "simulated_jobs_per_s",
)
"""What a row has of a simulation's figures: the rest is the same in every row of a cell."""


def _row(cell: Row, point: Point, figures: Row, fcfs: Row, oracle: Row) -> Row:
    named = {"label": point.label, "curve": point.curve, "setting": point.setting}
    kept = {name: figures[name] for name in KEPT}
    return cell | named | kept | sim_report.against(figures, fcfs, oracle)


AVERAGED: Final = (
    *("mean_jct_s", "p99_jct_s", "max_jct_s"),
    *("mean_jct_change", "p99_jct_factor", "max_jct_factor", "share_of_oracle_gain"),
)


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
    means = {name: fmean(row[name] for row in group) for name in AVERAGED}
    spread = [row["mean_jct_change"] for row in group]
    return {
        **dict(zip(names, key, strict=True)),
        **shared,
        **means,
        "mean_jct_change_spread": max(spread) - min(spread),
        "bound_violations": sum(row["bound_violations"] for row in group),
        "runs": len(group),
    }


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
