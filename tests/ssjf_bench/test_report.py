from __future__ import annotations

import json

import pytest

from ssjf_bench import report
from tests.ssjf_bench.records import failed, finished


def mean_of(policy: str, end_s: float) -> report.Summary:
    return report.summarise("burst", policy, [finished("a", tokens_s=(end_s,))])


def test_times_count_from_the_arrival() -> None:
    summary = report.summarise(
        "poisson",
        "fcfs",
        [
            finished("a", arrival_s=1.0, tokens_s=(2.0, 4.0)),
            finished("b", arrival_s=3.0, tokens_s=(3.5, 4.0)),
        ],
    )
    assert summary.jct is not None
    assert summary.jct.mean_s == pytest.approx((3.0 + 1.0) / 2)
    assert summary.ttft is not None
    assert summary.ttft.mean_s == pytest.approx((1.0 + 0.5) / 2)


def test_throughput_is_over_the_whole_window() -> None:
    records = [
        finished("a", arrival_s=1.0, tokens_s=(1.5, 2.0)),
        finished("b", arrival_s=2.0, tokens_s=(10.0, 11.0)),
    ]
    assert report.summarise("burst", "fcfs", records).output_tokens_per_s == pytest.approx(4 / 10)


def test_percentiles_are_those_of_all_finished_requests() -> None:
    spread = report.spread(float(value) for value in range(101))
    assert spread == report.Spread(mean_s=50.0, p50_s=50.0, p99_s=99.0)


def test_failed_requests_count_as_failed_and_nowhere_else() -> None:
    summary = report.summarise("burst", "fcfs", [finished("a", tokens_s=(1.0,)), failed("b")])
    assert (summary.requests, summary.failed, summary.output_tokens) == (2, 1, 1)
    assert summary.jct is not None
    assert summary.jct.mean_s == 1.0


def test_nothing_finished_gives_no_times() -> None:
    summary = report.summarise("burst", "fcfs", [failed("a"), failed("b")])
    assert (summary.jct, summary.ttft, summary.kendall_tau_b) == (None, None, None)


@pytest.mark.parametrize(
    ("predicted", "tau"),
    [((1.0, 2.0, 3.0), 1.0), ((3.0, 2.0, 1.0), -1.0), ((1.0, 3.0, 2.0), 1 / 3), ((5, 5, 5), None)],
)
def test_tau_b_compares_the_orders(predicted: tuple[float, ...], tau: float | None) -> None:
    records = [
        finished(str(index), tokens_s=(1.0,) * (index + 1), predicted=value)
        for index, value in enumerate(predicted)
    ]
    assert report.kendall_tau_b(records) == (None if tau is None else pytest.approx(tau))


def test_tau_b_handles_ties_on_one_side() -> None:
    records = [
        finished(str(index), tokens_s=(1.0,) * (index + 1), predicted=value)
        for index, value in enumerate((1.0, 1.0, 2.0))
    ]
    assert report.kendall_tau_b(records) == pytest.approx(2 / (3 * 2) ** 0.5)


def test_priors_are_counted() -> None:
    records = [finished("a"), finished("b", by_model=False), failed("c")]
    assert report.summarise("burst", "ssjf", records).priors_used == 1


def test_the_share_of_the_oracles_gain() -> None:
    summaries = (mean_of("fcfs", 10.0), mean_of("ssjf", 7.0), mean_of("oracle", 6.0))
    assert report.share_of_oracle_gain(*summaries) == pytest.approx(0.75)


def test_there_is_no_share_where_the_oracle_gains_nothing() -> None:
    summaries = (mean_of("fcfs", 6.0), mean_of("ssjf", 6.0), mean_of("oracle", 6.0))
    assert report.share_of_oracle_gain(*summaries) is None


def test_capacity_is_measured_while_requests_wait() -> None:
    # Two places, 1 token/s each until the last start at 8 s, then a slow tail that must not count.
    steady = tuple(float(second) for second in range(1, 9))
    records = [
        finished("a", started_s=0.0, tokens_s=steady),
        finished("b", started_s=0.0, tokens_s=steady),
        finished("c", started_s=8.0, tokens_s=tuple(float(s) for s in range(20, 100, 10))),
    ]
    assert report.capacity_requests_per_s(records) == pytest.approx(2 / 8)


def test_capacity_of_a_burst_that_never_waited_is_that_of_the_whole_burst() -> None:
    records = [finished(name, started_s=0.0, tokens_s=(1.0, 2.0)) for name in "ab"]
    assert report.capacity_requests_per_s(records) == pytest.approx(2 / 2)


def test_capacity_is_unknown_where_nothing_finished() -> None:
    with pytest.raises(ValueError, match="no request finished"):
        report.capacity_requests_per_s([failed("a")])


def test_answers_that_differ_are_named() -> None:
    first = [finished("a", text="x"), finished("b", text="y"), failed("c")]
    second = [finished("a", text="x"), finished("b", text="z"), finished("c", text="w")]
    assert report.differing_answers(first, second) == ["b"]


def test_failures_have_a_line_each() -> None:
    assert report.failures([finished("a"), failed("b")]) == ["b: UNAVAILABLE NO_ENGINE none"]


def test_a_replay_becomes_plain_json() -> None:
    records = [finished("a", tokens_s=(1.0, 2.0)), failed("b")]
    data = json.loads(json.dumps(report.to_json(report.summarise("burst", "x", records), records)))
    assert data["jct"]["mean_s"] == 2.0
    assert [row["first_token_s"] for row in data["records"]] == [1.0, None]
