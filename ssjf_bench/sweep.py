"""Every policy at its default setting over arrivals, batching rules, loads and seeds.

Owns the grid, what a load means when batches run whole, the processes that share the work
and the averages over seeds. What happens in a cell is `cell`'s; `sweep_plots` draws. Called
by `ssjf bench sweep`.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from typing import Any, Final

import numpy as np

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf_bench import sim_run
from ssjf_bench.arrivals import Arrivals
from ssjf_bench.cell import FCFS, ORACLE, Cell, Noise, Point, Row, Source, over_seeds
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_run import Traffic
from ssjf_bench.step_time import StepTime
from ssjf_bench.trace import Trace

POINTS: Final = tuple(
    # By what is known, hrrn would be fcfs here: prompts and limits are all alike.
    Point(name, options=PolicyOptions(hrrn_on_predictions=True))
    for name in policy.names()
    if name not in (FCFS.policy, ORACLE.policy)
)
"""Every policy there is, at its default setting."""
WORTH_SHARING: Final = 0.01
"""Where the oracle gains less of the mean, a share of its gain is noise, and none is given."""
MAX_WAIT_S: Final = 0.05
"""Longest wait for company, dynamic batching."""


def batchings(places: Sequence[int], dynamic_places: Sequence[int]) -> list[Batching]:
    """No batching (1 place), then dynamic, then continuous."""
    return [
        *(Batching(Mode.NONE, 1) for each in places if each == 1),
        *(Batching(Mode.DYNAMIC, each, MAX_WAIT_S) for each in dynamic_places),
        *(Batching(Mode.CONTINUOUS, each) for each in places if each > 1),
    ]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What is run."""

    arrivals: Mapping[str, Arrivals]
    """By name."""
    rows: Sequence[Answered] | None
    """Prompts with lengths; None takes each trace's own lengths."""
    batchings: Sequence[Batching]
    """Modes and places."""
    loads: Sequence[float]
    """Shares of what first come, first served can finish under the same batching."""
    sources: Sequence[Source] = (Noise(0.60), Noise(0.68))
    """What the policies are told."""
    seeds: Sequence[int] = (1, 2, 3)
    """One run of everything for each: another draw of prompts, arrivals and noise."""
    points: Sequence[Point] = POINTS
    """Policies, beside fcfs and the oracle."""
    jobs: int | None = 6000
    """The first so many of each trace, or all where it has fewer; None takes all."""
    step_time: StepTime = field(default_factory=StepTime)
    """The engine."""

    @property
    def places(self) -> list[tuple[str, Batching, float, int]]:
        """The cells: arrivals, batching, load, seed."""
        return list(product(self.arrivals, self.batchings, self.loads, self.seeds))

    @property
    def runs_a_cell(self) -> int:
        """Simulations in each."""
        return 2 + len(self.sources) * len(self.points)

    def described(self) -> Row:
        """What rows do not say."""
        return {
            "jobs": self.jobs,
            "seeds": list(self.seeds),
            "step_base_ms": self.step_time.base_ms,
            "step_sequence_ms": self.step_time.per_sequence_ms,
            "max_wait_ms": MAX_WAIT_S * 1e3,
            "predictor": next((each.origin for each in self.sources if each.origin), None),
        }


@dataclass(frozen=True, slots=True)
class Done:
    """A cell that has been run."""

    rows: tuple[Row, ...]
    """One for each point and source."""
    cpu_s: float
    """Processor time that it took."""


def run(sweep: Sweep, workers: int = 1) -> Iterator[Done]:
    """Every cell, in the order of `places`, in so many processes.

    Raises ValueError, TraceError or Stuck where one cannot be run, BrokenProcessPool where a
    process ended of itself.
    """
    if workers <= 1:
        yield from (_run(sweep, number) for number in range(len(sweep.places)))
        return
    # Spawned: the caller's threads (a progress bar has one) must not be forked.
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, _remember, (sweep,))
    try:
        yield from pool.map(_run_remembered, range(len(sweep.places)))
    finally:
        pool.shutdown(cancel_futures=True)


_remembered: list[Sweep] = []  # of a worker process: sent once, not with every cell


def _remember(sweep: Sweep) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's, which ends the pool
    _remembered[:] = [sweep]


def _run_remembered(number: int) -> Done:
    return _run(_remembered[0], number)


def _run(sweep: Sweep, number: int) -> Done:
    begin_s = time.process_time()
    name, batching, load, seed = sweep.places[number]
    cell = _cell(sweep, sweep.arrivals[name], batching, load, seed)
    named: Row = {
        "arrivals": name,
        "mode": batching.mode.value,
        "batch": batching.places,
        "load": load,
        "seed": seed,
    }
    rows = [
        named | {"predictions": source.label if source else None} | figures
        for source, _, figures in cell.rows(sweep.points, sweep.sources)
    ]
    fcfs_tokens_s = rows[0]["throughput_tokens_s"]
    for row in rows:
        row["throughput_factor"] = row["throughput_tokens_s"] / fcfs_tokens_s
    return Done(tuple(rows), time.process_time() - begin_s)


def _cell(sweep: Sweep, arrivals: Arrivals, batching: Batching, load: float, seed: int) -> Cell:
    jobs, step_time = sweep.jobs, sweep.step_time
    if jobs is not None and isinstance(arrivals, Trace):
        jobs = min(jobs, len(arrivals.arrivals_s))
    traffic = Traffic(arrivals, sweep.rows, jobs, seed)
    answered = traffic.answered()
    if batching.mode is Mode.DYNAMIC:
        # Places stay empty until the longest answer has ended: less than a full engine's.
        lengths = [row.output_tokens for row in answered]
        capacity = step_time.whole_batches_requests_per_s(batching.places, lengths)
        offered = sim_run.offer_at(traffic, traffic.requests(answered), load, capacity)
    else:
        offered = sim_run.offer(traffic, answered, load, batching.places, step_time)
    return Cell(offered, answered, batching, step_time, seed)


def averages(rows: Sequence[Row]) -> list[Row]:
    """Means over the seeds, a row for each cell, source and policy, in their order.

    The share of the oracle's gain is that of the means, None where there is next to no gain.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((*_cell_of(row), row["predictions"], row["policy"]), []).append(row)
    found = [_average(group) for group in groups.values()]
    ceilings = {_cell_of(row): row for row in found if row["policy"] == ORACLE.policy}
    base = {_cell_of(row): row for row in found if row["policy"] == FCFS.policy}
    for row in found:
        fcfs_s, oracle_s = (each[_cell_of(row)]["mean_jct_s"] for each in (base, ceilings))
        row["share_of_oracle_gain"] = _share(row["mean_jct_s"], fcfs_s, oracle_s)
    return found


def _cell_of(row: Row) -> tuple[Any, ...]:
    return row["arrivals"], row["mode"], row["batch"], row["load"]


def _average(group: Sequence[Row]) -> Row:
    names = ("arrivals", "mode", "batch", "load", "predictions", "policy")
    taus = [row["kendall_tau_b"] for row in group]
    return {
        **{name: group[0][name] for name in names},
        "tau_b": float(np.mean(taus)) if group[0]["predictions"] else None,
        **over_seeds(group),
        "throughput_factor": float(np.mean([row["throughput_factor"] for row in group])),
    }


def _share(mean_s: float, fcfs_s: float, oracle_s: float) -> float | None:
    gain_s = fcfs_s - oracle_s
    return (fcfs_s - mean_s) / gain_s if gain_s > WORTH_SHARING * fcfs_s else None
