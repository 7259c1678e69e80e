from __future__ import annotations

from typing import Any

import pytest

from engine_svc.params import SamplingParams
from engine_svc.sampling_plan import Plan, PlanTally, plan_of


def params(**options: Any) -> SamplingParams:
    return SamplingParams(max_tokens=8, **options)


@pytest.mark.parametrize(
    ("options", "plan"),
    [
        ({}, Plan()),
        ({"temperature": 1.0}, Plan(draws=True)),
        ({"temperature": 1.0, "top_p": 0.9}, Plan(draws=True, filters=True)),
        ({"temperature": 1.0, "top_k": 9}, Plan(draws=True, filters=True)),
        ({"temperature": 1.0, "min_p": 0.1}, Plan(draws=True, filters=True)),
        ({"top_p": 0.9}, Plan()),
        ({"repetition_penalty": 1.1}, Plan(penalties=True)),
        ({"frequency_penalty": -1.0}, Plan(penalties=True)),
        ({"logit_bias": {3: 1.0}}, Plan(biases=True)),
        ({"min_tokens": 1}, Plan(ends=True)),
        ({"logprobs": 0}, Plan(logprobs=0)),
    ],
)
def test_a_plan_names_what_is_asked_for(options: dict[str, Any], plan: Plan) -> None:
    assert plan_of(params(**options)) == plan


def test_a_tally_has_the_plan_of_those_that_are_in() -> None:
    tally = PlanTally()
    asking = [params(logprobs=5), params(temperature=1.0), params(logprobs=2), params(logprobs=5)]
    for each in asking:
        tally.add(each)
    assert tally.plan == Plan(draws=True, logprobs=5)
    tally.remove(asking[0])
    assert tally.plan == Plan(draws=True, logprobs=5)
    tally.remove(asking[3])
    tally.remove(asking[1])
    assert tally.plan == Plan(logprobs=2)
    tally.remove(asking[2])
    assert tally.plan == Plan()


def test_what_neither_changes_logits_nor_reports_them_can_be_captured() -> None:
    assert Plan(draws=True, filters=True).capturable
    assert not Plan(logprobs=0).capturable
    assert not Plan(ends=True).capturable
