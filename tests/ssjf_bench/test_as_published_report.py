"""The grid of the paper's comparison, and what is said of its runs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from ssjf_bench import as_published_plots
from ssjf_bench.as_published import FCFS, ORACLE, Rules
from ssjf_bench.as_published_arrivals import Gamma, Poisson
from ssjf_bench.as_published_data import Predictor
from ssjf_bench.as_published_report import Found, Grid, capacities, compared, rows, run
from ssjf_bench.as_published_run import Answers, Figures

GRID = Grid(
    Answers(np.arange(1, 300), [Predictor("truth", np.arange(1.0, 300.0), 1.0, "")]),
    (Poisson(values=(1.0,)), Gamma(values=(2.0,))),
    batches=(2,),
    seeds=(1, 2),
    runs=1,
    ablated_batches=(2,),
    steady_jobs=60,
)


@pytest.fixture(scope="module")
def found() -> Found:
    return list(run(GRID, processes=1))


def test_an_order_is_compared_seed_by_seed() -> None:
    fcfs, oracle, mine = Figures(10, 20, 1), Figures(4, 30, 3), Figures(7, 25, 2)
    other = {FCFS: fcfs, ORACLE: oracle, "mine": Figures(5, 20, 1)}
    row = compared([{FCFS: fcfs, ORACLE: oracle, "mine": mine}, other], "mine")
    assert row["mean_jct_change"] == pytest.approx(-0.4)
    assert row["mean_jct_change_least"] == pytest.approx(-0.5)
    assert row["mean_jct_change_greatest"] == pytest.approx(-0.3)
    assert row["throughput_factor"] == pytest.approx(1.5)
    assert row["p99_jct_factor"] == pytest.approx(1.125)
    assert row["share_of_oracle_gain"] == pytest.approx(0.8 / 1.2)
    assert row["seeds"] == 2


def test_without_an_oracle_there_is_no_share_of_its_gain() -> None:
    row = compared([{FCFS: Figures(10, 20, 1), "mine": Figures(7, 25, 2)}], "mine")
    assert row["share_of_oracle_gain"] is None


def test_taking_apart_starts_as_published_and_ends_without_any_artefact() -> None:
    cases = [each for each in GRID.taken_apart() if not each.alone]
    for_one_batching = cases[: len(GRID.artefacts) + 1]
    assert for_one_batching[0].rules == Rules()
    assert for_one_batching[-1].rules.load == GRID.steady_load
    assert len({each.batching for each in for_one_batching}) == 1


def test_every_case_has_a_row_for_each_order_and_kind(found: Found) -> None:
    published, taken_apart = rows(GRID, found)
    assert len(published) == 2 * 3 * 2
    # In turn with the oracle, alone without.
    steps = len(GRID.artefacts)
    assert len(taken_apart) == 2 * 3 * (2 * (steps + 1) + steps)
    assert {row["seeds"] for row in (*published, *taken_apart)} == {2}


def test_several_processes_find_the_same() -> None:
    small = Grid(GRID.answers, GRID.kinds[:1], (2,), (1, 2), 1, ablated_batches=(), steady_jobs=60)
    assert list(run(small, processes=2)) == list(run(small, processes=1))


def test_capacities_are_told_for_each_batching() -> None:
    assert [(row["mode"], row["batch"]) for row in capacities(GRID)] == [
        ("none", 1),
        ("dynamic", 2),
        ("continuous", 2),
    ]


def test_both_plots_are_written(found: Found, tmp_path: Path) -> None:
    paths = as_published_plots.draw(*rows(GRID, found), tmp_path)
    assert [path.name for path in paths] == ["as-published.png", "as-published-artefacts.png"]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in paths)
