from __future__ import annotations

import random

import numpy as np
import pytest

from ssjf_bench import sim_predictions

DRAW = random.Random(5)
ACTUAL = [1 + int(DRAW.lognormvariate(5.5, 0.9)) for _ in range(4000)]


@pytest.mark.parametrize("tau", [0.3, 0.6, 0.68, 0.95])
def test_noise_is_calibrated_to_the_rank_correlation(tau: float) -> None:
    sigma = sim_predictions.sigma_for_tau(ACTUAL, tau, seed=2)
    predicted = sim_predictions.noisy(ACTUAL, sigma, seed=2)
    assert sim_predictions.kendall_tau_b(predicted.tokens, ACTUAL) == pytest.approx(tau, abs=1e-3)


def test_a_tau_of_one_is_the_truth() -> None:
    assert sim_predictions.noisy(
        ACTUAL, sim_predictions.sigma_for_tau(ACTUAL, 1.0, 2), 2
    ).tokens == (pytest.approx(ACTUAL))


def test_noise_is_log_normal() -> None:
    predicted = sim_predictions.noisy(ACTUAL, 0.5, seed=2)
    logs = np.log(np.array(predicted.tokens) / np.array(ACTUAL))
    assert logs.mean() == pytest.approx(0, abs=0.03)
    assert logs.std() == pytest.approx(0.5, rel=0.05)


def test_nine_in_ten_stay_under_the_p90() -> None:
    predicted = sim_predictions.noisy(ACTUAL, 0.5, seed=2)
    assert predicted.p90_tokens is not None
    under = np.array(ACTUAL) <= np.array(predicted.p90_tokens)
    assert under.mean() == pytest.approx(0.9, abs=0.02)


@pytest.mark.parametrize("tau", [0.0, -0.5, 1.5])
def test_an_impossible_tau_is_refused(tau: float) -> None:
    with pytest.raises(ValueError, match="tau must be"):
        sim_predictions.sigma_for_tau(ACTUAL, tau, seed=2)


def test_lengths_that_are_all_the_same_have_no_rank_correlation() -> None:
    with pytest.raises(ValueError, match="cannot be had"):
        sim_predictions.sigma_for_tau([5] * 10, 0.6, seed=2)
