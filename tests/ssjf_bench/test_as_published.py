"""The rules of the paper's simulation, and what is taken away from them."""

from __future__ import annotations

from dataclasses import fields

import pytest

from gateway_svc.scheduling.batching import Mode
from ssjf_bench.as_published import (
    FCFS,
    ORACLE,
    SSJF,
    Rules,
    Starvation,
    artefacts,
    that_matter,
    without,
)


def test_all_artefacts_away_leave_no_rule_of_the_paper() -> None:
    left = without(Rules(), *artefacts(100, 0.9))
    same = [each.name for each in fields(Rules) if getattr(left, each.name) == each.default]
    assert same == []


def test_an_artefact_away_leaves_the_other_rules() -> None:
    first, *_ = artefacts(100, 0.9)
    assert without(Rules(), first) == Rules(throughput_share=1.0)


def test_the_last_artefact_away_is_pure_shortest_job_first() -> None:
    assert without(Rules(), *artefacts(100, 0.9)).starvation is Starvation.NONE


@pytest.mark.parametrize("mode", Mode)
def test_fcfs_is_run_once_for_rules_that_only_shortest_job_first_has(mode: Mode) -> None:
    changed = Rules(
        starvation=Starvation.PREDICTION, forgets_last_job=False, prediction_s=1, ssjf_preempts=True
    )
    assert that_matter(changed, FCFS, mode) == that_matter(Rules(), FCFS, mode)


def test_idling_matters_to_fcfs_alone() -> None:
    changed = Rules(fcfs_idles_s=0)
    assert that_matter(changed, SSJF, Mode.DYNAMIC) == that_matter(Rules(), SSJF, Mode.DYNAMIC)
    assert that_matter(changed, FCFS, Mode.DYNAMIC) != that_matter(Rules(), FCFS, Mode.DYNAMIC)


def test_the_time_of_a_prediction_does_not_matter_to_the_oracle() -> None:
    changed = Rules(prediction_s=1)
    assert that_matter(changed, ORACLE, Mode.NONE) == that_matter(Rules(), ORACLE, Mode.NONE)
    assert that_matter(changed, SSJF, Mode.NONE) != that_matter(Rules(), SSJF, Mode.NONE)


@pytest.mark.parametrize(
    "wrong",
    [{"throughput_share": 0}, {"jobs": 3}, {"fcfs_idles_s": -1}, {"prediction_s": float("inf")}],
)
def test_rules_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="rules"):
        Rules(**wrong)  # type: ignore[arg-type]
