from __future__ import annotations

from dataclasses import replace
from typing import Any

from ssjf_bench import live_verdict
from ssjf_bench.live_records import LiveRow
from tests.ssjf_bench.test_live_records import FAILED, ROW

WARM_UP = replace(ROW, measured=False, arrival_s=-3.0, sent_s=-3.0, end_s=-1.0)
ROWS = [
    replace(ROW, request_id=str(n), arrival_s=float(n), sent_s=n + 0.001, end_s=n + 1.0)
    for n in range(100)
]


def seen(rows: list[LiveRow], lags_s: tuple[float, ...] = (0.001,), **more: Any) -> dict[str, Any]:
    return live_verdict.facts(rows, tick_lag_s=lags_s, generator_cores=0.5, **more)


def reasons(rows: list[LiveRow], lags_s: tuple[float, ...] = (0.001,)) -> list[str]:
    return live_verdict.reasons(rows, seen(rows, lags_s), broken="")


def test_a_run_in_which_all_went_well_counts() -> None:
    assert reasons([WARM_UP, *ROWS]) == []


def test_a_failed_request_makes_the_run_invalid_and_is_named() -> None:
    (reason,) = reasons([*ROWS, FAILED])
    assert reason.startswith("1 of 101 requests did not finish, the first: UNAVAILABLE")


def test_an_answer_of_another_length_than_forced_makes_the_run_invalid() -> None:
    (reason,) = reasons([*ROWS, replace(ROW, request_id="x", output_tokens=3)])
    assert "request x has 3 tokens, not 4" in reason
    assert reasons([*ROWS, replace(ROW, output_tokens=3, forced_tokens=None)]) == []


def test_a_late_client_makes_the_run_invalid() -> None:
    late = [replace(row, sent_s=row.arrival_s + 0.06) for row in ROWS]
    (reason,) = reasons(late)
    assert "could not keep up" in reason
    assert "sent 60 ms late" in reason
    (reason,) = reasons(ROWS, lags_s=(0.2,) * 10)
    assert "read 200 ms late" in reason


def test_lateness_is_judged_by_what_requests_take() -> None:
    slow = [replace(row, sent_s=row.arrival_s + 0.06, end_s=row.arrival_s + 10) for row in ROWS]
    assert reasons(slow) == []


def test_a_service_that_ended_is_the_first_reason() -> None:
    found = live_verdict.reasons(
        [FAILED], seen([FAILED]), broken="engine: ended by SIGKILL\nout of memory"
    )
    assert found[0] == "engine: ended by SIGKILL"


def test_priors_are_a_fact_and_no_reason() -> None:
    half = [*ROWS[:50], *(replace(row, predicted_by_model=False) for row in ROWS[50:])]
    assert seen(half)["priors_used_share"] == 0.5
    assert reasons(half) == []


def test_real_text_unlike_its_recording_is_counted() -> None:
    recorded = {row.request_id: 4 for row in ROWS} | {"7": 5}
    assert seen(ROWS, recorded=recorded)["lengths_unlike_recording_share"] == 0.01


def test_the_window_is_what_was_measured() -> None:
    assert live_verdict.window_s([WARM_UP, *ROWS]) == 100.0
    assert live_verdict.window_s([WARM_UP]) == 0.0
