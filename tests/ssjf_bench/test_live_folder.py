from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ssjf_bench.live_folder import LiveFolder, OtherPlan
from ssjf_bench.live_plan import Engine
from ssjf_bench.live_records import Run
from tests.ssjf_bench.test_live_plan import PLAN
from tests.ssjf_bench.test_live_records import HEADER, ROW


def claimed(path: Path) -> LiveFolder:
    folder = LiveFolder(path, PLAN)
    folder.claim()
    return folder


def test_a_plan_finds_what_it_left(tmp_path: Path) -> None:
    engine = Engine("continuous", 16)
    first = claimed(tmp_path / "new")
    assert first.capacity(engine) is None
    assert first.lengths() is None
    first.keep_capacity(engine, 2.5, requests=96)
    first.keep_lengths({"0": 7})
    again = claimed(tmp_path / "new")
    assert again.capacity(engine) == 2.5
    assert again.lengths() == {"0": 7}
    assert again.capacities()["continuous-16"] == {"requests_s": 2.5, "requests": 96}


def test_another_plan_is_refused_with_what_differs(tmp_path: Path) -> None:
    claimed(tmp_path)
    with pytest.raises(OtherPlan, match=r"another folder\n  seed: 1 there, 2 asked for$"):
        LiveFolder(tmp_path, replace(PLAN, seed=2))


def test_records_of_no_plan_are_refused(tmp_path: Path) -> None:
    LiveFolder(tmp_path, PLAN).keep(Run(HEADER, (ROW,)))
    with pytest.raises(OtherPlan, match="without a plan"):
        LiveFolder(tmp_path, PLAN)


def test_looking_at_a_folder_writes_nothing(tmp_path: Path) -> None:
    LiveFolder(tmp_path / "none", PLAN)
    assert not (tmp_path / "none").exists()


def test_a_run_counts_once_it_is_there_and_valid(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    assert not folder.counts(HEADER.run)
    folder.keep(Run(replace(HEADER, invalid=("late",)), (ROW,)))
    assert not folder.counts(HEADER.run)
    folder.keep(Run(HEADER, (ROW,)))
    assert folder.counts(HEADER.run)


def test_runs_come_in_the_order_of_the_plan(tmp_path: Path) -> None:
    folder = claimed(tmp_path)
    names = [run.name for run in PLAN.runs]
    for name in (names[2], names[0]):
        folder.keep(Run(replace(HEADER, run=name), ()))
    assert [run.header.run for run in folder.in_order()] == [names[0], names[2]]
