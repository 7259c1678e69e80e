from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import pytest

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching, Mode
from ssjf_bench import sweep, sweep_plots
from ssjf_bench.arrivals import Renewal
from ssjf_bench.cell import Noise, Row
from ssjf_bench.lengths import Answered
from ssjf_bench.sweep import Sweep
from ssjf_bench.trace import Trace

DRAW = random.Random(3)
ROWS = [Answered("", "", (), "", 1 + int(DRAW.lognormvariate(4, 1))) for _ in range(150)]
# Bursts of 30, ten seconds apart
BURSTS = Trace(
    tuple(10.0 * (n // 30) + 0.01 * (n % 30) for n in range(150)), (1,) * 150, (5, 50, 500) * 50
)
GRID = Sweep(
    {"bursts": BURSTS, "gamma:1": Renewal(), "gamma:4": Renewal(4.0)},
    ROWS,
    [Batching(Mode.NONE, 1), Batching(Mode.DYNAMIC, 4, 0.05), Batching(Mode.CONTINUOUS, 4)],
    loads=(0.8, 1.2),
    sources=(Noise(0.6),),
    seeds=(1, 2),
    jobs=200,
)


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return [row for done in sweep.run(GRID) for row in done.rows]


@pytest.fixture(scope="module")
def averages(rows: list[Row]) -> list[Row]:
    return sweep.averages(rows)


def of(averages: list[Row], name: str, **wanted: object) -> Row:
    found = [
        row
        for row in averages
        if row["policy"] == name and all(row[key] == value for key, value in wanted.items())
    ]
    assert len(found) == 1
    return found[0]


def test_every_policy_there_is_takes_part() -> None:
    names = {point.policy for point in sweep.POINTS} | {"fcfs", "oracle"}
    assert names == set(policy.names())


def test_every_cell_has_a_row_for_every_policy(rows: list[Row]) -> None:
    assert len(GRID.places) == 3 * 3 * 2 * 2
    assert len(rows) == len(GRID.places) * GRID.runs_a_cell
    assert GRID.runs_a_cell == len(policy.names())


def test_a_trace_with_fewer_jobs_is_taken_whole(rows: list[Row]) -> None:
    jobs = {row["arrivals"]: row["jobs"] for row in rows}
    assert jobs == {"bursts": 150, "gamma:1": 200, "gamma:4": 200}


def test_several_processes_find_what_one_finds(rows: list[Row]) -> None:
    few = replace(GRID, arrivals={"bursts": BURSTS}, loads=(0.8,), seeds=(1,))
    alone = [row for done in sweep.run(few) for row in done.rows]
    shared = [row for done in sweep.run(few, workers=2) for row in done.rows]
    for row in alone + shared:
        del row["simulated_jobs_per_s"]
    assert shared == alone


def test_what_cannot_be_run_in_another_process_is_said() -> None:
    with pytest.raises(ValueError, match="lengths are needed"):
        list(sweep.run(replace(GRID, rows=None, arrivals={"gamma:1": Renewal()}), workers=2))


def test_a_trace_can_bring_its_own_lengths() -> None:
    own = replace(GRID, rows=None, arrivals={"bursts": BURSTS}, loads=(0.01,), seeds=(1,))
    found = [row for done in sweep.run(own) for row in done.rows if row["mode"] == "none"]
    # Alone on the engine: 500 tokens take this long
    assert found[0]["p50_jct_s"] == pytest.approx(50 * 0.006568, rel=0.2)


def test_averages_have_a_row_for_each_policy_and_source_in_a_cell(averages: list[Row]) -> None:
    assert len(averages) == 3 * 3 * 2 * GRID.runs_a_cell
    assert {row["runs"] for row in averages} == {2}
    taus = [row["tau_b"] for row in averages if row["predictions"] is not None]
    assert taus == pytest.approx([0.6] * len(taus), abs=0.001)


def test_the_share_of_the_gain_is_that_of_the_mean_times(averages: list[Row]) -> None:
    cell = {"arrivals": "bursts", "mode": "continuous", "load": 0.8}
    fcfs, ssjf, oracle = (
        of(averages, name, **cell)["mean_jct_s"] for name in ("fcfs", "ssjf", "oracle")
    )
    share = of(averages, "ssjf", **cell)["share_of_oracle_gain"]
    assert share == pytest.approx((fcfs - ssjf) / (fcfs - oracle))


def test_no_share_is_given_of_next_to_no_gain() -> None:
    idle = replace(GRID, arrivals={"gamma:1": Renewal()}, loads=(0.01,), seeds=(1,))
    found = sweep.averages([row for done in sweep.run(idle) for row in done.rows])
    assert {row["share_of_oracle_gain"] for row in found} == {None}


def test_the_load_of_whole_batches_is_a_share_of_what_fcfs_finishes_of_them() -> None:
    # Everything at once: fcfs finishes at its capacity, so arrivals at twice it take half as long
    burst = Trace(tuple(0.001 * n for n in range(400)), (1,) * 400, (1, 100) * 200)
    grid = Sweep(
        {"burst": burst},
        None,
        [Batching(Mode.DYNAMIC, 4, 0.05)],
        loads=(2.0,),
        sources=(),
        seeds=(1,),
        jobs=None,
    )
    (done,) = sweep.run(grid)
    fcfs = done.rows[0]
    arrived_s = fcfs["max_jct_s"]  # the last comes half-way through
    finished_s = 400 * 50.5 / fcfs["throughput_tokens_s"]
    assert finished_s / arrived_s == pytest.approx(2, rel=0.02)


def test_a_figure_is_drawn_for_every_quantity(averages: list[Row], tmp_path: Path) -> None:
    files = sweep_plots.draw(averages, tmp_path, "0.6", ["bursts", "gamma:4"])
    assert [path.name for path in files] == ["sweep-gain.png", "sweep-share.png", "sweep-p99.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)


def test_burstiness_is_drawn_over_the_cv(averages: list[Row], tmp_path: Path) -> None:
    cvs = {"gamma:1": 1.0, "gamma:4": 4.0}
    path = sweep_plots.draw_burstiness(averages, cvs, tmp_path, "0.6", 0.8)
    assert path.read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(("label", "words"), [("0.6", "τ-b 0.6"), ("predictor", "predictor")])
def test_a_source_is_described_in_words(label: str, words: str) -> None:
    assert sweep_plots.described(label) == words
