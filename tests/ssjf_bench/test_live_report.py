from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from ssjf_bench import live_records, live_report
from ssjf_bench.live_records import LiveRow, Run, RunHeader
from tests.ssjf_bench.live_runs import header, row, split

FCFS = header("continuous-8-0.9-fcfs-1")


def one(rows: list[LiveRow], of: RunHeader = FCFS) -> dict[str, Any]:
    return live_report.summaries([of], rows)[0]


def run_of(policy: str, ends_s: tuple[float, ...], repeat: int = 1, **changes: Any) -> Run:
    """Requests that come at 0 s and end at these times."""
    of = header(f"continuous-8-0.9-{policy}-{repeat}", **changes)
    return Run(of, [row(of, str(index), end_s=end_s) for index, end_s in enumerate(ends_s)])


def summaries(*runs: Run) -> list[dict[str, Any]]:
    return live_report.summaries(*split(runs))


def test_times_count_from_the_arrival() -> None:
    rows = [
        row(FCFS, "0", arrival_s=1.0, started_s=1.5, first_token_s=2.0, end_s=4.0),
        row(FCFS, "1", arrival_s=2.0, started_s=2.0, first_token_s=2.5, end_s=3.0),
    ]
    found = one(rows)
    assert (found["jobs"], found["mean_jct_s"], found["max_jct_s"]) == (2, 2.0, 3.0)
    assert found["p50_jct_s"] == pytest.approx(2.0)
    assert (found["mean_wait_s"], found["max_wait_s"]) == (0.25, 0.5)
    assert found["mean_ttft_s"] == pytest.approx(0.75)


def test_throughput_is_over_the_whole_window() -> None:
    rows = [
        row(FCFS, "0", arrival_s=1.0, end_s=3.0, output_tokens=6),
        row(FCFS, "1", arrival_s=2.0, end_s=5.0, output_tokens=10),
    ]
    found = one(rows)
    assert found["window_s"] == 4.0
    assert found["throughput_requests_s"] == pytest.approx(2 / 4)
    assert found["throughput_tokens_s"] == pytest.approx(16 / 4)


def test_time_per_token_is_that_of_the_tokens_after_the_first() -> None:
    rows = [
        row(FCFS, "0", first_token_s=1.0, end_s=2.0, output_tokens=5),
        row(FCFS, "1", first_token_s=1.0, end_s=1.0, output_tokens=1),
    ]
    assert one(rows)["mean_tpot_ms"] == pytest.approx(250)


def test_answers_of_one_token_have_no_time_per_token() -> None:
    assert one([row(FCFS, output_tokens=1)])["mean_tpot_ms"] is None


def test_warm_up_counts_nowhere() -> None:
    rows = [row(FCFS, "w", measured=False, end_s=99.0), row(FCFS, "0", end_s=2.0)]
    found = one(rows)
    assert (found["jobs"], found["warm_up_jobs"], found["max_jct_s"]) == (1, 1, 2.0)


def test_a_failed_request_makes_its_run_invalid() -> None:
    rows = [row(FCFS, "0"), row(FCFS, "1", outcome="UNAVAILABLE", error="ENGINE_LOST")]
    found = one(rows)
    assert (found["errors"], found["jobs"]) == (1, 1)
    assert found["invalid"] == ["1 of 2 requests failed"]


def test_a_run_in_which_nothing_finished_has_no_figures() -> None:
    found = one([row(FCFS, outcome="UNAVAILABLE", end_s=None)])
    assert found["mean_jct_s"] is found["throughput_requests_s"] is None
    assert found["invalid"]


def test_a_run_without_rows_is_invalid() -> None:
    assert one([])["invalid"] == ["no rows in the window"]


def test_predictions_are_ranked_against_lengths() -> None:
    pairs = [(1.0, 10), (2.0, 20), (3.0, 30), (5.0, 25)]
    rows = [
        row(FCFS, str(index), predicted_tokens=told, output_tokens=tokens)
        for index, (told, tokens) in enumerate(pairs)
    ]
    assert one(rows)["kendall_tau_b"] == pytest.approx(4 / 6)


def test_priors_are_counted() -> None:
    rows = [row(FCFS, str(index), predicted_by_model=index > 0) for index in range(3)]
    assert one(rows)["priors_used"] == 1


def test_the_load_generators_own_lag_is_told() -> None:
    rows = [row(FCFS, str(index), sent_s=0.001 * index) for index in range(101)]
    found = one(rows)
    assert found["max_lag_ms"] == pytest.approx(100)
    assert found["p99_lag_ms"] == pytest.approx(99)


def test_what_services_cost_is_told_for_each_request() -> None:
    rows = [row(FCFS, str(index), sent_s=0.001, queued_s=0.006) for index in range(10)]
    found = one(rows)
    assert found["cpu_s"]["gateway"] == 1.0
    assert found["cpu_ms_per_request"]["gateway"] == pytest.approx(100)
    assert found["cores"]["gateway"] == pytest.approx(0.1)
    assert found["mean_admission_ms"] == pytest.approx(5)


def test_a_policy_is_compared_with_fcfs_and_oracle_of_its_cell() -> None:
    found = summaries(
        run_of("fcfs", (10.0, 10.0)), run_of("ssjf", (4.0, 12.0)), run_of("oracle", (2.0, 10.0))
    )
    ssjf = found[1]
    assert ssjf["mean_jct_change"] == pytest.approx(-0.2)
    assert ssjf["max_jct_factor"] == pytest.approx(1.2)
    assert ssjf["share_of_oracle_gain"] == pytest.approx(2 / 4)
    assert ssjf["throughput_factor"] == pytest.approx(10 / 12)
    assert ssjf["output_tokens_factor"] == 1.0
    assert ssjf["compared"] is None


def test_repeats_are_compared_each_with_its_own_fcfs() -> None:
    found = summaries(
        run_of("fcfs", (10.0,)), run_of("fcfs", (20.0,), 2), run_of("ssjf", (10.0,), 2)
    )
    assert found[2]["mean_jct_change"] == pytest.approx(-0.5)


def test_without_a_valid_fcfs_there_is_no_comparison() -> None:
    found = summaries(run_of("fcfs", (10.0,), invalid=["lag"]), run_of("ssjf", (5.0,)))
    assert found[1]["mean_jct_change"] is None
    assert found[1]["compared"] == live_report.NO_FCFS


def test_without_an_oracle_its_share_alone_is_missing() -> None:
    found = summaries(run_of("fcfs", (10.0,)), run_of("ssjf", (5.0,)))
    assert found[1]["mean_jct_change"] == pytest.approx(-0.5)
    assert found[1]["share_of_oracle_gain"] is None


def test_other_loads_and_batches_are_other_cells() -> None:
    other = header("continuous-16-0.9-ssjf-1")
    found = summaries(run_of("fcfs", (10.0,)), Run(other, [row(other)]))
    assert found[1]["compared"] == live_report.NO_FCFS


def test_the_spread_is_mean_least_and_most_over_repeats() -> None:
    found = summaries(run_of("fcfs", (2.0,)), run_of("fcfs", (4.0,), 2))
    (fcfs,) = live_report.spread(found)
    told = [fcfs[name] for name in ("mean_jct_s", "mean_jct_s_min", "mean_jct_s_max")]
    assert told == [3.0, 2.0, 4.0]
    assert (fcfs["valid_runs"], fcfs["jobs"]) == (2, 2)


def test_invalid_runs_enter_no_average() -> None:
    found = summaries(run_of("fcfs", (2.0,)), run_of("fcfs", (400.0,), 2, invalid=["lag"]))
    (fcfs,) = live_report.spread(found)
    assert fcfs["mean_jct_s"] == 2.0
    assert fcfs["invalid_runs"] == ["continuous-8-0.9-fcfs-2"]


def test_a_cell_of_invalid_runs_has_no_averages() -> None:
    (fcfs,) = live_report.spread(summaries(run_of("fcfs", (2.0,), invalid=["lag"])))
    assert (fcfs["valid_runs"], fcfs["mean_jct_s"], fcfs["mean_jct_s_min"]) == (0, None, None)


def test_a_policy_at_two_settings_is_two_rows() -> None:
    runs = [run_of("bounded-ssjf", (2.0,), options={"alpha": alpha}) for alpha in (1.3, 2.0)]
    found = live_report.spread(summaries(*runs))
    assert [each["label"] for each in found] == ["bounded-ssjf alpha 1.3", "bounded-ssjf alpha 2.0"]


def test_summaries_are_plain_data() -> None:
    found = summaries(run_of("fcfs", (2.0, 3.0)), run_of("ssjf", (1.0, 3.0)))
    assert json.loads(json.dumps(found)) == found


def test_raw_files_are_named_with_their_checksums(tmp_path: Path) -> None:
    path = live_records.write(tmp_path, run_of("fcfs", (2.0,)))
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert live_report.checksums([path]) == [{"file": path.name, "sha256": digest}]
