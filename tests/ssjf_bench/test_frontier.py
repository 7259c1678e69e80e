from __future__ import annotations

import random
from pathlib import Path

import pytest

from ssjf_bench import frontier, frontier_plots
from ssjf_bench.cell import Point, Row
from ssjf_bench.frontier import Grid
from ssjf_bench.lengths import Answered
from ssjf_bench.trace import Trace

DRAW = random.Random(3)
ROWS = [Answered("", "", (), "", 1 + int(DRAW.lognormvariate(4, 1))) for _ in range(150)]
# Bursts of 30, ten seconds apart
TRACE = Trace(tuple(10.0 * (n // 30) + 0.01 * (n % 30) for n in range(150)), (1,) * 150, (1,) * 150)
GRID = Grid(
    {"bursts": TRACE}, ROWS, batches=(4,), loads=(0.9,), taus=(0.6, 0.8), seeds=(1, 2),
    points=(Point("ssjf"), *(Point("tail-ssjf", tail) for tail in (1.1, 2.0))),
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[Row]:
    return list(frontier.run(GRID))


def row(curve: str, p99_factor: float, change: float) -> Row:
    return {"curve": curve, "p99_jct_factor": p99_factor, "mean_jct_change": change}


def test_every_point_is_run_in_every_cell(rows: list[Row]) -> None:
    assert len(rows) == GRID.runs == 2 * (2 + 2 * 3)


def test_rows_compare_with_fcfs_of_the_same_draw(rows: list[Row]) -> None:
    for found in rows:
        if found["policy"] == "fcfs":
            assert (found["mean_jct_change"], found["p99_jct_factor"]) == (0, 1)
        if found["policy"] == "oracle":
            assert found["share_of_oracle_gain"] == 1


def test_averages_hold_every_policy_in_the_cell_of_every_tau(rows: list[Row]) -> None:
    cells = frontier.cells(frontier.averages(rows))
    assert list(cells) == [("bursts", 4, 0.9, 0.6), ("bursts", 4, 0.9, 0.8)]
    for cell in cells.values():
        labels = [found["label"] for found in cell]
        assert sorted(labels) == ["fcfs", "oracle", "ssjf", "tail-ssjf 1.1", "tail-ssjf 2"]
        assert {found["runs"] for found in cell} == {2}


def test_averages_are_means_over_the_seeds(rows: list[Row]) -> None:
    changes = [
        found["mean_jct_change"]
        for found in rows
        if found["policy"] == "ssjf" and found["tau"] == 0.6
    ]
    average = next(found for found in frontier.averages(rows) if found["label"] == "ssjf")
    assert average["mean_jct_change"] == pytest.approx(sum(changes) / 2)
    assert average["mean_jct_change_spread"] == pytest.approx(max(changes) - min(changes))


def test_a_curve_is_read_between_its_settings() -> None:
    cell = [row("a", 1.0, 0.0), row("a", 2.0, -0.4), row("b", 1.5, -0.9)]
    assert frontier.change_at(cell, "a", 1.5) == pytest.approx(-0.2)


@pytest.mark.parametrize("p99_factor", [0.9, 2.1])
def test_a_curve_is_not_read_beyond_its_settings(p99_factor: float) -> None:
    cell = [row("a", 1.0, 0.0), row("a", 2.0, -0.4)]
    assert frontier.change_at(cell, "a", p99_factor) is None


def test_points_of_one_curve_differ_in_their_setting() -> None:
    labels = [point.label for point in frontier.POINTS]
    assert len(set(labels)) == len(labels)
    assert {point.curve for point in frontier.POINTS} <= frontier_plots.STYLES.keys()


def test_a_figure_is_drawn_for_every_tau(rows: list[Row], tmp_path: Path) -> None:
    files = frontier_plots.draw(frontier.averages(rows), tmp_path)
    assert [path.name for path in files] == ["frontier-tau-0.60.png", "frontier-tau-0.80.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
