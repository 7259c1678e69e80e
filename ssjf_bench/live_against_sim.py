"""The simulator beside the live runs: the same jobs, arrivals and predictions, side by side.

An engine is fitted to the live runs of fcfs in each cell and to nothing else; the other
policies' runs give the simulator only what a gateway is given: when requests came, how long
prompts and answers were, what was predicted. Called by `ssjf bench against-sim`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Final

import numpy as np

from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf_bench import live_report, step_fit
from ssjf_bench.live_cells import Cell
from ssjf_bench.live_records import LiveRow, Run
from ssjf_bench.sim_predictions import Predictions
from ssjf_bench.simulator import Setup, simulate
from ssjf_bench.step_fit import Fit
from ssjf_bench.step_time import StepTime
from ssjf_bench.workload import Request, Workload

MOST_DIFFERENCE: Final = 0.10
"""How far a simulated mean or p99 may be from the live one, as a share."""
MOST_POINTS: Final = 5.0
"""How far the change of the mean against fcfs may be, in percentage points."""
VARIED: Final = (0.995, 0.9975, 1.0025, 1.005)
"""Engines hardly slower or faster, to see how much of a difference is chance: one job that goes
before another changes all after it, and a p99 hangs on a few jobs."""
FITTED_TO: Final = "the live fcfs runs of the same cell"

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Comparison:
    """What was found."""

    engines: Sequence[tuple[Cell, Fit]]
    """The cells that could be compared, and the engine of each."""
    fits: Sequence[Row]
    """The engine of each cell: step time, handover, admission, and how well they fit."""
    rows: Sequence[Row]
    """Live and simulated figures of each run, and its engine's `drift` from the fit.

    Where runs of real text differ in their answers, fcfs ran on others: `output_tokens_factor`
    says by how much, `…_on_its_answers` compares with fcfs simulated on the run's own.
    """
    simulated: Sequence[Run]
    """The runs as the simulator has them, for plots."""
    left_out: Sequence[str]
    """Cells that could not be compared, and why."""


def compare(
    found: Sequence[Cell], advance: Callable[[str], None] = lambda _run: None
) -> Comparison:
    """Simulates every valid run of cells that have fcfs; `advance` is told of each."""
    engines: list[tuple[Cell, Fit]] = []
    rows: list[Row] = []
    simulated: list[Run] = []
    left_out: list[str] = []
    for cell in found:
        try:
            fit = fit_of(cell)
        except ValueError as error:
            left_out.append(f"{cell.title}: {error}")
            continue
        engines.append((cell, fit))
        of_cell = []
        for run in (run for runs in cell.runs.values() for run in runs):
            of_cell.append(as_simulated(run, fit))
            advance(run.header.run)
        rows += _side_by_side(cell, of_cell, fit)
        simulated += of_cell
    fits = [_fit_row(cell, fit) for cell, fit in engines]
    return Comparison(engines, fits, rows, simulated, left_out)


def fit_of(cell: Cell) -> Fit:
    """The engine as the cell's fcfs runs show it. Raises ValueError without any."""
    if cell.fcfs is None:
        raise ValueError(live_report.NO_FCFS)
    return step_fit.fit([run.rows for run in cell.runs[cell.fcfs]])


def as_simulated(run: Run, fit: Fit) -> Run:
    """The run with the simulator's times in place of the live ones, warm-up among them.

    A job is in the queue `admission_ms` after its arrival, which holds the client's way
    there and back, so that its completion time counts from where the live one counts.
    """
    rows = sorted((row for row in run.rows if row.ok), key=lambda row: row.arrival_s)
    header = run.header
    # Warm-up comes before the window, at negative times; the simulator begins at zero.
    back_s = -rows[0].arrival_s
    workload, predictions = _workload(rows, fit.admission_ms * 1e-3 + back_s)
    setup = Setup(
        header.policy,
        _options(header.options),
        Batching(Mode(header.mode), header.max_batch, header.max_wait_ms * 1e-3),
        fit.step_time,
        handover=fit.handover,
        step_model=_step_model(header.flags.get("gateway", {})),
    )
    outcome = simulate(workload, predictions, setup)
    times = zip(outcome.start_s, outcome.first_token_s, outcome.end_s, strict=True)
    return Run(
        header,
        [
            replace(
                row,
                queued_s=queued_s - back_s,
                started_s=float(start_s) - back_s,
                first_token_s=float(first_s) - back_s,
                end_s=float(end_s) - back_s,
            )
            for row, queued_s, (start_s, first_s, end_s) in zip(
                rows, workload.arrivals_s, times, strict=True
            )
        ],
    )


def _workload(rows: Sequence[LiveRow], shift_s: float) -> tuple[Workload, Predictions]:
    """The jobs as they came, and what they were queued under."""
    limit = max(row.output_tokens for row in rows)
    requests = tuple(
        Request(
            request_id=row.request_id,
            prompt="",
            max_tokens=limit,
            temperature=0.0,
            seed=row.seed,
            prompt_tokens=row.prompt_tokens or 1,
            output_tokens=max(1, row.output_tokens),
        )
        for row in rows
    )
    told = tuple(row.predicted_tokens or 1.0 for row in rows)
    arrivals_s = tuple(row.arrival_s + shift_s for row in rows)
    return Workload(requests, arrivals_s), Predictions(told, None, "as queued live")


def _options(given: Mapping[str, Any]) -> PolicyOptions:
    """The policy's settings, as far as it has them."""
    known = {field.name for field in fields(PolicyOptions)} - {"oracle_lengths"}
    return PolicyOptions(**{name: value for name, value in given.items() if name in known})


def _step_model(flags: Mapping[str, Any]) -> StepModel:
    """What the live gateway took a job's work to be."""
    names = {field.name for field in fields(StepModel)}
    return StepModel(**{name: float(flags[name]) for name in names if name in flags})


def _fit_row(cell: Cell, fit: Fit) -> Row:
    """The fit as one flat row."""
    plain = asdict(fit)
    times, handover = plain.pop("step_time"), plain.pop("handover")
    named = dict(zip(live_report.CELL, cell.key, strict=True))
    return {**named, "fitted_to": FITTED_TO, **times, **handover, **plain}


def _side_by_side(cell: Cell, simulated: Sequence[Run], fit: Fit) -> list[Row]:
    again = live_report.summaries(
        [run.header for run in simulated], [row for run in simulated for row in run.rows]
    )
    live = {each["run"]: each for each in cell.summaries}
    more = {
        run.header.run: {
            "drift": step_fit.drift(run.rows, fit.step_time),
            **_on_its_answers(run, fit, live[run.header.run]),
            **_varied(run, fit),
        }
        for runs in cell.runs.values()
        for run in runs
    }
    return [_row(live[each["run"]], each) | more[each["run"]] for each in again]


def _on_its_answers(run: Run, fit: Fit, live: Mapping[str, Any]) -> Row:
    """The live run against what fcfs would have made of the same answers, simulated."""
    fcfs = replace(run.header, policy="fcfs", options={})
    again = as_simulated(Run(fcfs, run.rows), fit)
    found = live_report.figures([row for row in again.rows if row.measured])
    return {
        "output_tokens_factor": live["output_tokens_factor"],
        "mean_jct_change_on_its_answers": live["mean_jct_s"] / found["mean_jct_s"] - 1,
        "p99_jct_factor_on_its_answers": live["p99_jct_s"] / found["p99_jct_s"],
    }


def _varied(run: Run, fit: Fit) -> Row:
    """How far the simulated figures reach under engines that are `VARIED`."""
    found = []
    for factor in VARIED:
        times = {name: factor * value for name, value in asdict(fit.step_time).items()}
        again = as_simulated(run, replace(fit, step_time=StepTime(**times)))
        found.append(live_report.figures([row for row in again.rows if row.measured]))
    return {
        f"simulated_{name}_varied_{most.__name__}": most(each[name] for each in found)
        for name in ("mean_jct_s", "p99_jct_s")
        for most in (min, max)
    }


_NAMED: Final = ("run", "policy", "label", *live_report.CELL, "repeat", "jobs")


def _row(live: Mapping[str, Any], simulated: Mapping[str, Any]) -> Row:
    """One run, live and simulated; `beyond` names what differs by more than it may."""
    row: Row = {name: live[name] for name in _NAMED}
    for name in ("mean_jct", "p99_jct"):
        row[f"live_{name}_s"] = live[f"{name}_s"]
        row[f"simulated_{name}_s"] = simulated[f"{name}_s"]
        row[f"{name}_difference"] = simulated[f"{name}_s"] / live[f"{name}_s"] - 1
    for name in ("mean_ttft_s", "mean_tpot_ms", "throughput_tokens_s"):
        row[f"live_{name}"], row[f"simulated_{name}"] = live[name], simulated[name]
    row |= {
        "live_mean_jct_change": live["mean_jct_change"],
        "simulated_mean_jct_change": simulated["mean_jct_change"],
        "mean_jct_change_points": _points(live, simulated),
    }
    return row | {"beyond": _beyond(row)}


def _points(live: Mapping[str, Any], simulated: Mapping[str, Any]) -> float | None:
    changes = simulated["mean_jct_change"], live["mean_jct_change"]
    if None in changes:
        return None
    return float(100 * np.subtract(*changes))


def _beyond(row: Row) -> list[str]:
    names = [
        name
        for name in ("mean_jct_difference", "p99_jct_difference")
        if abs(row[name]) > MOST_DIFFERENCE
    ]
    points = row["mean_jct_change_points"]
    if points is not None and abs(points) > MOST_POINTS:
        names.append("mean_jct_change_points")
    return names


_CHANGES: Final = (
    *("live_mean_jct_change", "simulated_mean_jct_change", "mean_jct_change_points"),
    *("drift", "output_tokens_factor"),
    *("mean_jct_change_on_its_answers", "p99_jct_factor_on_its_answers"),
)


def averages(rows: Sequence[Row]) -> list[Row]:
    """Repeats of each cell and policy as one row: live and simulated means of the figures.

    Differences are those of the means: what a table of the evaluation shows.
    """
    groups: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        groups.setdefault((*live_report.cell(row), row["label"]), []).append(row)
    return [_average(group) for group in groups.values()]


def _average(group: Sequence[Row]) -> Row:
    row: Row = {name: group[0][name] for name in ("policy", "label", *live_report.CELL)}
    row["runs"] = len(group)
    for name in ("mean_jct", "p99_jct"):
        live_s, simulated_s = (
            float(np.mean([each[f"{side}_{name}_s"] for each in group]))
            for side in ("live", "simulated")
        )
        row |= {f"live_{name}_s": live_s, f"simulated_{name}_s": simulated_s}
        row[f"{name}_difference"] = simulated_s / live_s - 1
    for name in _CHANGES:
        known = [each[name] for each in group if each[name] is not None]
        row[name] = float(np.mean(known)) if known else None
    return row | {"beyond": _beyond(row)}
