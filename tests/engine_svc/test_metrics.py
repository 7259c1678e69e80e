from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from prometheus_client import REGISTRY

from engine_svc import metrics
from engine_svc.messages import Failed, Finished, FirstToken, Report
from engine_svc.scheduler import Capacity
from engine_svc.sequence import Ending, FailureCode, FinishReason


def value(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(f"ssjf_engine_{name}", labels) or 0.0


@contextmanager
def rises(by: float, name: str, **labels: str) -> Iterator[None]:
    before = value(name, **labels)
    yield
    assert value(name, **labels) - before == pytest.approx(by)


def test_a_step_counts_with_its_tokens_and_its_time() -> None:
    report = Report(3, 2.5, (1, 2), (5, 6), (0, 7), prompt_tokens=9)
    with (
        rises(1, "steps_total"),
        rises(2, "output_tokens_total"),
        rises(9, "prompt_tokens_total"),
        rises(0.0025, "step_seconds_sum"),
    ):
        metrics.observe(report)


def test_a_report_without_a_step_counts_none() -> None:
    with rises(0, "steps_total"):
        metrics.observe(Report(capacity=Capacity(1, 2, 3)))
    assert (value("running_sequences"), value("free_kv_tokens")) == (3, 2)


def test_every_end_counts_under_its_reason() -> None:
    finished = Finished(1, Ending(FinishReason.STOP, stop_string="x"), 3, 2, 1.0, 1.0)
    failed = Failed(2, FailureCode.NUMERIC, "NaN")
    with (
        rises(1, "sequences_total", outcome="stop"),
        rises(1, "sequences_total", outcome="numeric"),
        rises(2, "sequences_total", outcome="cancelled"),
    ):
        metrics.observe(Report(finished=(finished,), failed=(failed,)))
        metrics.observe_cancelled(2)


def test_what_memory_costs_is_counted() -> None:
    report = Report(first=(FirstToken(1, 16),), preempted=2, out_of_memory=1)
    with (
        rises(16, "cached_prompt_tokens_total"),
        rises(2, "preempted_total"),
        rises(1, "out_of_memory_total"),
    ):
        metrics.observe(report)


def test_without_a_stream_nothing_runs_and_everything_is_free() -> None:
    metrics.observe(Report(capacity=Capacity(1, 2, 3)))
    metrics.observe_detached(640)
    assert (value("running_sequences"), value("free_kv_tokens")) == (0, 640)
