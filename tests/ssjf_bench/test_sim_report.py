from __future__ import annotations

import numpy as np
import pytest

from ssjf_bench import sim_report
from ssjf_bench.simulator import Outcome

OUTCOME = Outcome(
    arrival_s=np.array([0.0, 1.0, 2.0, 3.0]),
    start_s=np.array([0.0, 1.5, 4.0, 3.0]),
    first_token_s=np.array([0.5, 2.0, 4.5, 3.5]),
    end_s=np.array([2.0, 3.0, 8.0, 5.0]),
    output_tokens=np.array([4, 3, 8, 5]),
    bound_violations=2,
    wall_s=0.5,
    cpu_s=0.25,
)


def test_times_count_from_the_arrival() -> None:
    found = sim_report.figures(OUTCOME)
    assert found["mean_jct_s"] == pytest.approx((2 + 2 + 6 + 2) / 4)
    assert found["p50_jct_s"] == pytest.approx(2)
    assert found["max_jct_s"] == 6
    assert found["max_wait_s"] == 2
    assert found["mean_ttft_s"] == pytest.approx((0.5 + 1 + 2.5 + 0.5) / 4)


def test_throughput_is_over_the_whole_window() -> None:
    found = sim_report.figures(OUTCOME)
    assert found["window_s"] == 8
    assert found["throughput_requests_s"] == pytest.approx(4 / 8)
    assert found["throughput_tokens_s"] == pytest.approx(20 / 8)


def test_violations_and_speed_are_told() -> None:
    found = sim_report.figures(OUTCOME)
    assert found["bound_violations"] == 2
    assert found["simulated_jobs_per_s"] == 8
    assert found["simulated_jobs_per_cpu_s"] == 16


def row(mean_s: float, p99_s: float = 1.0, max_s: float = 1.0) -> dict[str, float]:
    return {"mean_jct_s": mean_s, "p99_jct_s": p99_s, "max_jct_s": max_s}


def test_a_policy_is_compared_with_fcfs_and_the_oracle() -> None:
    found = sim_report.against(row(7, 12, 30), row(10, 10, 15), row(4))
    assert found["mean_jct_change"] == pytest.approx(-0.3)
    assert found["p99_jct_factor"] == pytest.approx(1.2)
    assert found["max_jct_factor"] == pytest.approx(2.0)
    assert found["share_of_oracle_gain"] == pytest.approx(0.5)


def test_without_a_gain_there_is_no_share_of_it() -> None:
    assert sim_report.against(row(10), row(10), row(10))["share_of_oracle_gain"] is None
