from __future__ import annotations

from dataclasses import replace
from statistics import fmean
from typing import Any

import pytest

from ssjf_bench import live_against_sim, live_cells
from ssjf_bench.live_against_sim import Comparison
from ssjf_bench.live_records import Run
from ssjf_bench.step_time import StepTime
from tests.ssjf_bench.live_runs import simulated, split

POLICIES = ("fcfs", "ssjf", "default", "oracle")


def runs_of(**options: Any) -> list[Run]:
    return [simulated(policy, **options) for policy in POLICIES]


def compared(runs: list[Run]) -> Comparison:
    return live_against_sim.compare(live_cells.cells(*split(runs)))


def mean_jct_s(run: Run) -> float:
    return fmean(each.jct_s or 0.0 for each in run.rows if each.measured)


def moved(run: Run, by_s: float) -> Run:
    """The run on a clock that begins otherwise."""
    names = ("arrival_s", "sent_s", "queued_s", "started_s", "first_token_s", "end_s")
    rows = [replace(each, **{n: getattr(each, n) + by_s for n in names}) for each in run.rows]
    return Run(run.header, rows)


@pytest.mark.parametrize(
    "options",
    [{}, {"load": 0.5, "max_batch": 16}, {"mode": "dynamic", "load": 1.2}, {"mode": "none"}],
)
def test_runs_that_the_simulator_made_are_met_within_a_hundredth(options: dict[str, Any]) -> None:
    found = compared(runs_of(**options))
    assert [each["policy"] for each in found.rows] == [*POLICIES]
    for each in found.rows:
        assert each["mean_jct_difference"] == pytest.approx(0, abs=0.01)
        assert each["p99_jct_difference"] == pytest.approx(0, abs=0.01)
        assert each["mean_jct_change_points"] == pytest.approx(0, abs=0.5)
        assert each["beyond"] == []


def test_settings_of_a_policy_are_simulated() -> None:
    runs = [
        simulated("fcfs"),
        *(simulated("bounded-ssjf", options={"alpha": alpha}) for alpha in (1.05, 8.0)),
    ]
    tight, loose = compared([runs[0], runs[1]]).rows[1], compared([runs[0], runs[2]]).rows[1]
    assert tight["live_mean_jct_s"] > 1.1 * loose["live_mean_jct_s"]
    for each in (tight, loose):
        assert each["mean_jct_difference"] == pytest.approx(0, abs=0.01)


def test_a_run_with_other_answers_is_compared_with_fcfs_on_them() -> None:
    fcfs, fcfs_longer = simulated("fcfs"), simulated("fcfs", longer=1.03)
    ssjf, ssjf_longer = simulated("ssjf"), simulated("ssjf", longer=1.03)
    expected = mean_jct_s(ssjf_longer) / mean_jct_s(fcfs_longer) - 1
    same, other = compared([fcfs, ssjf]).rows[1], compared([fcfs, ssjf_longer]).rows[1]
    assert same["output_tokens_factor"] == 1.0
    change = same["live_mean_jct_change"]
    assert same["mean_jct_change_on_its_answers"] == pytest.approx(change, abs=0.005)
    assert other["output_tokens_factor"] == pytest.approx(1.03, abs=0.005)
    assert other["mean_jct_change_on_its_answers"] == pytest.approx(expected, abs=0.01)
    assert other["live_mean_jct_change"] > expected + 0.02


def test_predictions_are_those_of_the_live_run() -> None:
    fcfs, ssjf = simulated("fcfs"), simulated("ssjf")
    blind = Run(ssjf.header, [replace(each, predicted_tokens=50.0) for each in ssjf.rows])
    _, told = compared([fcfs, ssjf]).rows
    _, untold = compared([fcfs, blind]).rows
    assert untold["simulated_mean_jct_s"] > 1.2 * told["simulated_mean_jct_s"]


def test_warm_up_may_come_at_negative_times() -> None:
    runs = runs_of()
    at_zero = compared(runs).rows
    found = compared([moved(run, -40.0) for run in runs]).rows
    for one, other in zip(found, at_zero, strict=True):
        assert one["simulated_mean_jct_s"] == pytest.approx(other["simulated_mean_jct_s"], rel=1e-3)


def test_the_engine_is_fitted_to_fcfs_alone() -> None:
    fcfs, ssjf = simulated("fcfs"), simulated("ssjf", step_time=StepTime(13.0, 0.2, 0.06, 8.0))
    found = compared([fcfs, ssjf])
    (fit,) = found.fits
    assert fit["base_ms"] == pytest.approx(6.5, rel=0.01)
    slow = found.rows[1]
    assert slow["drift"] == pytest.approx(1.0, abs=0.02)
    assert slow["beyond"] == [
        *("mean_jct_difference", "p99_jct_difference", "mean_jct_change_points")
    ]


def test_it_is_told_how_much_hardly_different_engines_change() -> None:
    for each in compared(runs_of(jobs=200)).rows:
        for name in ("mean_jct_s", "p99_jct_s"):
            low, high = (each[f"simulated_{name}_varied_{most}"] for most in ("min", "max"))
            assert low < high
            assert low * 0.9 < each[f"simulated_{name}"] < high * 1.1


def test_cells_without_fcfs_are_left_out_and_named() -> None:
    found = compared([simulated("fcfs"), simulated("ssjf", max_batch=16)])
    assert [each["run"] for each in found.rows] == ["continuous-8-0.9-fcfs-1"]
    assert found.left_out == [
        "continuous, batch 16, load 0.9: no valid run of fcfs to compare with"
    ]


def test_repeats_are_averaged() -> None:
    runs = [simulated(policy, repeat=repeat) for policy in POLICIES[:2] for repeat in (1, 2)]
    found = compared(runs)
    fcfs, ssjf = live_against_sim.averages(found.rows)
    means = [each["live_mean_jct_s"] for each in found.rows if each["policy"] == "ssjf"]
    assert ssjf["live_mean_jct_s"] == pytest.approx(sum(means) / 2)
    assert (fcfs["runs"], ssjf["runs"]) == (2, 2)
    assert fcfs["mean_jct_change_points"] == 0


def test_everything_simulated_is_told_of() -> None:
    told: list[str] = []
    runs = runs_of()
    live_against_sim.compare(live_cells.cells(*split(runs)), told.append)
    assert told == [run.header.run for run in runs]
