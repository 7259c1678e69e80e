from __future__ import annotations

import os
from dataclasses import replace

import pytest

from ssjf_bench.predictor_load import Load, LoadError, run
from ssjf_bench.predictor_prompts import Prompts
from tests.ssjf_bench.fake_predictor import FakePredictor, serving

PROMPTS = Prompts(tuple(f"w{n}" for n in range(2000)), "and so on")
LOAD = Load(prompts_a_call=1, concurrency=1, clients=1, seconds=0.3)


def test_one_call_at_a_time_has_a_latency_and_a_rate() -> None:
    predictor = FakePredictor()
    with serving(predictor) as address:
        result = run(address, PROMPTS, replace(LOAD, server_pids=(os.getpid(),)), 0)
    found = result.latency
    assert 0 < found.p50_ms <= found.p90_ms <= found.p99_ms
    assert result.prompts_per_s * LOAD.seconds <= found.calls + 1
    assert len(predictor.prompts) > found.calls  # warming up is not counted
    assert len(set(predictor.prompts)) == len(predictor.prompts)
    assert set(predictor.sizes) == {1}
    assert len(result.client_cores) == 1
    assert result.server_cores is not None
    assert result.server_cores >= 0


def test_clients_share_the_calls_in_flight_and_send_different_prompts() -> None:
    predictor = FakePredictor()
    with serving(predictor) as address:
        result = run(address, PROMPTS, replace(LOAD, prompts_a_call=4, concurrency=6, clients=2), 0)
    assert len(result.client_cores) == 2
    assert set(predictor.sizes) == {4}
    assert len(set(predictor.prompts)) == len(predictor.prompts)
    assert result.server_cores is None


def test_repeated_prompts_are_the_same_ones() -> None:
    predictor = FakePredictor()
    with serving(predictor) as address:
        run(address, PROMPTS, replace(LOAD, repeat=True), 5)
    assert set(predictor.prompts) == {PROMPTS.prompt(5)}


def test_a_refused_call_fails_the_measurement() -> None:
    with (
        serving(FakePredictor(refuse_after=3)) as address,
        pytest.raises(LoadError, match="Predict: RESOURCE_EXHAUSTED the queue is full"),
    ):
        run(address, PROMPTS, LOAD, 0)


def test_a_lost_prediction_fails_the_measurement() -> None:
    with (
        serving(FakePredictor(drop=True)) as address,
        pytest.raises(LoadError, match="1 prompts, 0 predictions"),
    ):
        run(address, PROMPTS, LOAD, 0)
