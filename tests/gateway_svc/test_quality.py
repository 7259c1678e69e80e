from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import kendalltau

from gateway_svc.quality import MIN_COUNT, Outcome, PredictionWindow, Trust

PAIRS = st.lists(st.tuples(st.integers(1, 12), st.integers(1, 12)), min_size=MIN_COUNT, max_size=90)


def window(pairs: list[tuple[int, int]], size: int = 1000) -> PredictionWindow:
    made = PredictionWindow(size)
    for predicted, actual in pairs:
        made.add(Outcome(float(predicted), actual))
    return made


@given(PAIRS, st.integers(MIN_COUNT, 60))
def test_tau_b_is_that_of_the_latest_outcomes(pairs: list[tuple[int, int]], size: int) -> None:
    latest = pairs[-size:]
    if min(len({each[side] for each in latest}) for side in (0, 1)) == 1:
        assert window(pairs, size).tau_b is None  # nothing to order
        return
    expected = kendalltau(*zip(*latest, strict=True)).statistic
    assert window(pairs, size).tau_b == pytest.approx(expected)


def test_a_few_outcomes_say_nothing() -> None:
    pairs = [(n, n) for n in range(1, MIN_COUNT)]
    assert window(pairs).tau_b is None
    assert window([*pairs, (99, 99)]).tau_b == 1.0


def test_bias_is_the_ratio_of_the_sums_in_the_window() -> None:
    assert window([]).predicted_to_actual is None
    assert window([(1, 100), (10, 20), (30, 20)], size=2).predicted_to_actual == 1.0


def test_coverage_counts_those_that_had_a_percentile() -> None:
    made = PredictionWindow(3)
    assert made.p90_coverage is None
    for actual, p90 in ((5, 4.0), (5, 5.0), (5, None), (9, 8.0), (1, None)):
        made.add(Outcome(3.0, actual, p90))
    assert made.count == 3
    assert made.p90_coverage == 0.0  # of the last three the one with a percentile is above it
    made.add(Outcome(3.0, 2, 4.0))
    assert made.p90_coverage == 0.5


def test_trust_is_lost_below_the_threshold_and_regained_only_above_it() -> None:
    trust = Trust(lowest=0.2, margin=0.1)
    seen = [(tau_b, trust.judge(tau_b), trust.lost) for tau_b in (0.5, 0.2, 0.19, 0.25, 0.29, 0.31)]
    assert seen == [
        (0.5, False, False),
        (0.2, False, False),
        (0.19, True, True),
        (0.25, False, True),
        (0.29, False, True),
        (0.31, True, False),
    ]


def test_without_a_threshold_or_a_tau_trust_stays_as_it_is() -> None:
    assert not Trust(lowest=None).judge(-1.0)
    lost = Trust(lowest=0.2, lost=True)
    assert not lost.judge(None)
    assert lost.lost


def test_taking_in_an_outcome_keeps_the_sums_exact() -> None:
    draw = random.Random(5)
    pairs = [(draw.randint(1, 500), draw.randint(1, 500)) for _ in range(2000)]
    long_lived, fresh = window(pairs, size=64), window(pairs[-64:], size=64)
    assert long_lived.tau_b == fresh.tau_b
