from __future__ import annotations

import random

import pytest

from gateway_svc.scheduling.calibration import WINDOW_JOBS, Calibration


def test_predictions_are_believed_before_any_job_has_ended() -> None:
    calibration = Calibration()
    for tokens in (0.01, 1.0, 37.0, 1e9):
        assert calibration.expected(tokens) == pytest.approx(tokens)


def test_predictions_that_are_always_wrong_by_a_factor_are_put_right() -> None:
    calibration = Calibration()
    for _ in range(200):
        calibration.learn(1000.0, 100)
    assert calibration.expected(1000.0) == pytest.approx(100, rel=0.1)


def test_what_was_learnt_is_believed_of_lengths_never_seen() -> None:
    calibration = Calibration()
    for _ in range(200):
        calibration.learn(1000.0, 100)
    assert calibration.expected(50.0) == pytest.approx(5, rel=0.1)


def test_long_predictions_under_noise_come_down_and_short_ones_up() -> None:
    draw, calibration = random.Random(2), Calibration()
    for _ in range(5000):
        actual = draw.lognormvariate(5.0, 0.8)
        calibration.learn(actual * draw.lognormvariate(0.0, 0.8), round(actual))
    # For equal spreads the mean of the logarithm is halfway between prediction and mean.
    assert calibration.expected(1500.0) < 1000
    assert calibration.expected(20.0) > 40


def test_what_is_old_is_forgotten() -> None:
    calibration = Calibration()
    for _ in range(int(WINDOW_JOBS)):
        calibration.learn(100.0, 10)
    for _ in range(5 * int(WINDOW_JOBS)):
        calibration.learn(100.0, 100)
    assert calibration.expected(100.0) > 95
