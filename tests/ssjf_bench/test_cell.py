from __future__ import annotations

import random

import pytest

from gateway_svc.scheduling.batching import Batching, Mode
from ssjf_bench import sim_run
from ssjf_bench.arrivals import Renewal
from ssjf_bench.cell import Cell, Noise, Point, Trained, over_seeds
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_predictions import Predictions
from ssjf_bench.sim_run import Traffic
from ssjf_bench.step_time import StepTime

DRAW = random.Random(5)
ROWS = [Answered(str(n), f"say {n}", (), "", DRAW.randint(1, 300)) for n in range(120)]
TRAFFIC = Traffic(Renewal(3.0), ROWS, 120, seed=2)
ANSWERED = TRAFFIC.answered()
STEP_TIME = StepTime()
CELL = Cell(
    sim_run.offer(TRAFFIC, ANSWERED, 0.9, 4, STEP_TIME),
    ANSWERED,
    Batching(Mode.CONTINUOUS, 4),
    STEP_TIME,
    seed=2,
)
POINTS = (Point("ssjf"), Point("hrrn"))


def told(tokens: tuple[float, ...], p90: tuple[float, ...] | None = None) -> Trained:
    return Trained.of(ROWS, Predictions(tokens, p90, "a predictor"))


def test_fcfs_and_the_oracle_come_first_and_once() -> None:
    found = list(CELL.rows(POINTS, [Noise(0.6), Noise(0.8)]))
    labels = [(source.label if source else None, point.label) for source, point, _ in found]
    assert labels[:2] == [(None, "fcfs"), (None, "oracle")]
    assert labels[2:] == [("0.6", "ssjf"), ("0.6", "hrrn"), ("0.8", "ssjf"), ("0.8", "hrrn")]


def test_perfect_predictions_make_ssjf_the_oracle() -> None:
    truth = told(tuple(float(row.output_tokens) for row in ROWS))
    (_, oracle), (_, ssjf) = [(point, row) for _, point, row in CELL.rows(POINTS[:1], [truth])][1:]
    assert ssjf["mean_jct_s"] == oracle["mean_jct_s"]
    assert ssjf["kendall_tau_b"] == pytest.approx(1)


def test_trained_predictions_follow_their_prompts() -> None:
    tokens = tuple(float(10 * n + 1) for n in range(len(ROWS)))
    found = told(tokens, p90=tuple(2 * each for each in tokens)).predictions(ANSWERED, seed=9)
    assert found.tokens == tuple(10 * int(row.prompt_id) + 1 for row in ANSWERED)
    assert found.p90_tokens == tuple(2 * each for each in found.tokens)
    assert found.origin == "a predictor"


def test_trained_predictions_without_quantiles_have_none() -> None:
    assert told((1.0,) * len(ROWS)).predictions(ANSWERED, seed=1).p90_tokens is None


def test_over_seeds_means_and_spreads() -> None:
    rows = [row for _, _, row in CELL.rows((), [])]
    found = over_seeds(rows)
    assert found["mean_jct_s"] == pytest.approx((rows[0]["mean_jct_s"] + rows[1]["mean_jct_s"]) / 2)
    assert found["mean_jct_change_spread"] == pytest.approx(-rows[1]["mean_jct_change"])
    assert (found["runs"], found["share_of_oracle_gain"]) == (2, 0.5)


def test_a_figure_that_one_seed_lacks_has_no_mean() -> None:
    rows = [row for _, _, row in CELL.rows((), [])]
    rows[0]["share_of_oracle_gain"] = None
    assert over_seeds(rows)["share_of_oracle_gain"] is None
