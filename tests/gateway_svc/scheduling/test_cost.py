from __future__ import annotations

import math
from typing import Any

import pytest

from gateway_svc.scheduling.cost import StepModel
from tests.gateway_svc.scheduling.jobs import job


def test_work_is_prefill_plus_decode_in_output_tokens() -> None:
    model = StepModel(prefill_token_ms=2.5, decode_token_ms=10.0)
    assert model.work_tokens(job(1, prompt_tokens=8), output_tokens=3) == 5.0
    assert model.service_s(5.0) == 0.05


def test_a_cached_prompt_costs_no_prefill() -> None:
    model = StepModel(prefill_token_ms=2.5, decode_token_ms=10.0)
    cached = job(1, prompt_tokens=8, cached_prompt_tokens=4)
    assert model.work_tokens(cached, output_tokens=3) == 4.0


@pytest.mark.parametrize("rates", [(-0.1, 1.0), (0.1, 0.0), (0.1, -1.0), (math.nan, 1.0)])
def test_a_rate_that_is_not_positive_is_refused(rates: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="step model"):
        StepModel(*rates)


@pytest.mark.parametrize(
    "fields",
    [
        {"prompt_tokens": 0},
        {"max_tokens": 0},
        {"predicted_tokens": 0.0},
        {"predicted_tokens": math.nan},
        {"predicted_tokens": -1.0},
        {"cached_prompt_tokens": 11},
        {"reserved_kv_tokens": 0},
    ],
)
def test_a_job_that_cannot_be_scheduled_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="job 1"):
        job(1, **fields)
