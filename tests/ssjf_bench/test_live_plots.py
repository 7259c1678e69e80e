from __future__ import annotations

from pathlib import Path

import pytest

from ssjf_bench import live_cells, live_plots
from ssjf_bench.live_records import Run
from tests.ssjf_bench.live_runs import header, row, simulated, split

EVERY = ["jct-cdf.png", "queue-depth.png", "jct-by-length.png", "mean-against-p99.png"]


@pytest.fixture(scope="module")
def runs() -> list[Run]:
    return [
        simulated(policy, jobs=100, load=load)
        for load in (0.7, 0.9)
        for policy in ("fcfs", "ssjf", "oracle")
    ]


def drawn(runs: list[Run], folder: Path) -> list[str]:
    headers, rows = split(runs)
    files = live_plots.draw(rows, headers, folder)
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in files)
    return [path.name for path in files]


def test_every_figure_is_drawn(runs: list[Run], tmp_path: Path) -> None:
    assert drawn(runs, tmp_path / "plots") == [*EVERY, "gain-against-load.png"]


def test_one_load_is_no_curve_of_loads(runs: list[Run], tmp_path: Path) -> None:
    assert drawn(runs[:3], tmp_path) == EVERY


def test_without_fcfs_nothing_is_compared(runs: list[Run], tmp_path: Path) -> None:
    assert drawn(runs[1:3], tmp_path) == EVERY[:2]


def test_invalid_runs_are_not_drawn(tmp_path: Path) -> None:
    of = header(invalid=["lag"])
    assert drawn([Run(of, [row(of)])], tmp_path) == []


def test_the_queue_holds_what_has_arrived_and_not_started() -> None:
    of = header()
    rows = [
        row(of, "0", arrival_s=0.0, started_s=0.0),
        row(of, "1", arrival_s=1.0, started_s=4.0),
        row(of, "2", arrival_s=2.0, started_s=3.0),
    ]
    assert live_plots.queue_depth(rows) == ([0.0, 1.0, 2.0, 3.0, 4.0], [0, 1, 2, 1, 0])


def test_lengths_fall_into_fifths_with_fcfs_as_their_measure() -> None:
    fcfs, ssjf = header("continuous-8-0.9-fcfs-1"), header("continuous-8-0.9-ssjf-1")
    runs = [
        Run(of, [row(of, str(n), output_tokens=n, end_s=share * n) for n in range(1, 101)])
        for of, share in ((fcfs, 2.0), (ssjf, 1.0))
    ]
    (cell,) = live_cells.cells(*split(runs))
    buckets = live_plots.length_buckets(cell)
    assert [(each["least"], each["most"]) for each in buckets] == [
        *((1, 20), (21, 40), (41, 60), (61, 80), (81, 100))
    ]
    assert buckets[0]["fcfs_s"] == pytest.approx(21)
    assert all(each["factors"]["ssjf"] == pytest.approx(0.5) for each in buckets)


def test_warm_up_is_in_no_distribution() -> None:
    of = header()
    rows = [row(of, "w", measured=False, end_s=9.0), row(of, "0", end_s=2.0)]
    (cell,) = live_cells.cells([of], rows)
    assert cell.jct_s("fcfs") == [2.0]
