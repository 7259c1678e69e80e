"""The paper's comparison beside a fair one: which runs are made, and what is said of them.

Owns the grid (kinds of arrivals, modes and batches, predictors; artefacts taken away one by
one and one after the other) and the comparison with first come, first served. Each seed is
a whole repetition; reported are its mean, least and greatest. Called by
`ssjf bench as-published`.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any

import numpy as np

from gateway_svc.scheduling.batching import Batching, Mode
from ssjf_bench import as_published_run as runs
from ssjf_bench.as_published import FCFS, ORACLE, Artefact, Rules, artefacts, without
from ssjf_bench.as_published_arrivals import Kind
from ssjf_bench.as_published_run import Answers, Figures

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Case:
    """What is run on the bursts of one kind."""

    batching: Batching
    """Mode and places."""
    rules: Rules
    """The paper's, or what is left of them."""
    orders: tuple[str, ...]
    """First come, first served among them."""
    removed: str = ""
    """The artefact that was taken away last; empty where none was."""
    alone: bool = False
    """Whether it is the only one."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Everything that is run."""

    answers: Answers
    """Lengths and predictors."""
    kinds: Sequence[Kind]
    """Of arrivals."""
    batches: Sequence[int] = (2, 6, 10)
    """Places, dynamic and continuous."""
    seeds: Sequence[int] = (1, 2, 3)
    """One repetition of everything for each."""
    runs: int = 10
    """Bursts at each value of a kind (the paper: 20); in a steady state a single one."""
    ablated: str = ""
    """The predictor whose gains are taken apart; empty: the first."""
    ablated_batches: Sequence[int] = (2, 6)
    """Places where that is done."""
    steady_jobs: int = 1000
    """Jobs of a run that is no burst."""
    steady_load: float = 0.9
    """And their load."""

    @property
    def artefacts(self) -> tuple[Artefact, ...]:
        """What is taken away, in that order."""
        return artefacts(self.steady_jobs, self.steady_load)

    @property
    def units(self) -> int:
        """Kinds of arrivals times seeds."""
        return len(self.kinds) * len(self.seeds)

    def as_published(self) -> list[Case]:
        """The paper's rules with every predictor."""
        names = tuple(each.name for each in self.answers.predictors)
        return [Case(each, Rules(), (FCFS, ORACLE, *names)) for each in _batchings(self.batches)]

    def taken_apart(self) -> list[Case]:
        """One predictor; the artefacts away one after the other, and each of them alone."""
        predictor = self.ablated or self.answers.predictors[0].name
        orders, both = (FCFS, ORACLE, predictor), (FCFS, predictor)
        made: list[Case] = []
        for batching in _batchings(self.ablated_batches):
            left = Rules()
            made.append(Case(batching, left, orders))
            for artefact in self.artefacts:
                left = without(left, artefact)
                alone = without(Rules(), artefact)
                made.append(Case(batching, left, orders, artefact.name))
                made.append(Case(batching, alone, both, artefact.name, alone=True))
        return made


def _batchings(batches: Sequence[int]) -> list[Batching]:
    modes = (Mode.DYNAMIC, Mode.CONTINUOUS)
    return [Batching(Mode.NONE, 1), *(Batching(mode, each) for mode in modes for each in batches)]


def run(grid: Grid, processes: int) -> Iterator[tuple[Kind, list[Mapping[str, Figures]]]]:
    """For each kind and, within it, each seed: what became of every case, in their order.

    Raises ValueError for a trace with too few jobs, BrokenProcessPool where a process ended of
    itself.
    """
    units = [(kind, seed) for kind in grid.kinds for seed in grid.seeds]
    if processes == 1:
        yield from (_run(grid, *unit) for unit in units)
        return
    pool = ProcessPoolExecutor(processes, get_context("spawn"), _remember, (grid,))
    try:
        yield from pool.map(_run_remembered, units)
    finally:
        pool.shutdown(cancel_futures=True)


_remembered: list[Grid] = []  # of a worker process: sent once, not with every unit


def _remember(grid: Grid) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends the pool
    _remembered[:] = [grid]


def _run_remembered(unit: tuple[Kind, int]) -> tuple[Kind, list[Mapping[str, Figures]]]:
    return _run(_remembered[0], *unit)


def _run(grid: Grid, kind: Kind, seed: int) -> tuple[Kind, list[Mapping[str, Figures]]]:
    bursts = runs.draws(grid.answers, kind, seed, grid.runs)
    steady = bursts[:: grid.runs]
    return kind, [
        runs.means(
            bursts if each.rules.load is None else steady, each.rules, each.batching, each.orders
        )
        for each in (*grid.as_published(), *grid.taken_apart())
    ]


Found = Sequence[tuple[Kind, list[Mapping[str, Figures]]]]


def rows(grid: Grid, found: Found) -> tuple[list[Row], list[Row]]:
    """As published, and taken apart; a row for each case and each order but the first."""
    whole = len(grid.as_published())
    published: list[Row] = []
    taken_apart: list[Row] = []
    for kind in grid.kinds:
        by_seed = [results for each, results in found if each.name == kind.name]
        published += _rows(kind, grid.as_published(), [each[:whole] for each in by_seed])
        taken_apart += _rows(kind, grid.taken_apart(), [each[whole:] for each in by_seed])
    return published, taken_apart


def capacities(grid: Grid) -> list[Row]:
    """Jobs a second that first come, first served can do of the drawn lengths, by batching."""
    lengths = grid.answers.output_tokens
    return [
        {
            "mode": each.mode.value,
            "batch": each.places,
            "requests_s": runs.capacity_per_s(lengths, each),
        }
        for each in _batchings(grid.batches)
    ]


def _rows(
    kind: Kind, cases: Sequence[Case], by_seed: Sequence[Sequence[Mapping[str, Figures]]]
) -> list[Row]:
    return [
        _named(kind, case, order) | compared([each[number] for each in by_seed], order)
        for number, case in enumerate(cases)
        for order in case.orders[1:]
    ]


def _named(kind: Kind, case: Case, order: str) -> Row:
    named = {
        "arrivals": kind.name,
        "mode": case.batching.mode.value,
        "batch": case.batching.places,
        "predictor": order,
    }
    if case.removed:
        named |= {"removed": case.removed, "alone": case.alone}
    return named


def compared(by_seed: Sequence[Mapping[str, Figures]], order: str) -> Row:
    """An order against first come, first served, mean over the seeds with least and greatest.

    `mean_jct_change` is relative (-0.3: 30 % less), the others are factors;
    `share_of_oracle_gain` is None where the oracle gains nothing or did not run.
    """
    changes = [each[order].mean_jct_s / each[FCFS].mean_jct_s - 1 for each in by_seed]
    ceiling = sum(
        each[ORACLE].mean_jct_s / each[FCFS].mean_jct_s - 1 for each in by_seed if ORACLE in each
    )
    factors = [each[order].throughput_per_s / each[FCFS].throughput_per_s for each in by_seed]
    tails = [each[order].p99_jct_s / each[FCFS].p99_jct_s for each in by_seed]
    return {
        "fcfs_mean_jct_s": float(np.mean([each[FCFS].mean_jct_s for each in by_seed])),
        **_spread("mean_jct_change", changes),
        **_spread("throughput_factor", factors),
        "p99_jct_factor": float(np.mean(tails)),
        "share_of_oracle_gain": sum(changes) / ceiling if ceiling < 0 else None,
        "seeds": len(by_seed),
    }


def _spread(name: str, values: Sequence[float]) -> Row:
    return {
        name: float(np.mean(values)),
        f"{name}_least": min(values),
        f"{name}_greatest": max(values),
    }
