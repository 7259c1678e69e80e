from __future__ import annotations

from typing import Any

import pytest

from ssjf_bench import live_against_sim, live_cells, live_what_if
from ssjf_bench.live_plan import Choice, parse_choice
from ssjf_bench.live_records import Run
from tests.ssjf_bench.live_runs import simulated, split

OTHERS = ("ssjf", "oracle")


def supposed(runs: list[Run], choices: list[Choice]) -> list[dict[str, Any]]:
    compared = live_against_sim.compare(live_cells.cells(*split(runs)))
    return live_what_if.simulated(compared, choices)


def test_a_policy_is_found_as_it_would_have_run() -> None:
    (full,) = live_cells.cells(*split([simulated(each) for each in ("fcfs", *OTHERS)]))
    found = supposed([simulated("fcfs")], [Choice(each) for each in OTHERS])
    for row, run in zip(found, full.summaries[1:], strict=True):
        assert row["policy"] == run["policy"]
        assert row["mean_jct_s"] == pytest.approx(run["mean_jct_s"], rel=0.01)
        assert row["mean_jct_change"] == pytest.approx(run["mean_jct_change"], abs=0.005)
        assert row["throughput_factor"] == pytest.approx(run["throughput_factor"], abs=0.005)
        assert row["share_of_oracle_gain"] == pytest.approx(run["share_of_oracle_gain"], abs=0.02)


def test_settings_of_a_policy_count() -> None:
    choices = [parse_choice(f"bounded-ssjf:alpha={alpha}") for alpha in (1.05, 8)]
    tight, loose = supposed([simulated("fcfs")], choices)
    assert tight["label"] == "bounded-ssjf alpha 1.05"
    assert tight["mean_jct_s"] > 1.1 * loose["mean_jct_s"]
    assert tight["share_of_oracle_gain"] is None


def test_every_repeat_of_fcfs_gives_a_row() -> None:
    found = supposed([simulated("fcfs", repeat=each) for each in (1, 2)], [Choice("ssjf")])
    assert [each["repeat"] for each in found] == [1, 2]
