from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor_svc.lengths import Floats, LengthBins, softmax

BINS = LengthBins(count=48, top_tokens=1024, beyond_tokens=1448)
TOKENS = st.integers(0, 100_000).map(float)


@st.composite
def distributions(draw: st.DrawFn) -> Floats:
    seed = draw(st.integers(0, 2**32 - 1))
    sharpness = draw(st.floats(0.01, 50))
    return softmax(np.random.default_rng(seed).normal(size=(1, BINS.count)) * sharpness)


@given(TOKENS)
def test_a_length_lies_between_the_edges_of_its_bin(tokens: float) -> None:
    index = int(BINS.index(np.array([tokens]))[0])
    assert 0 <= index < BINS.count
    assert max(tokens, 1.0) >= BINS.edges[index] * (1 - 1e-12)
    if index < BINS.count - 1:
        assert tokens < BINS.edges[index + 1] * (1 + 1e-12)


@given(TOKENS, TOKENS)
def test_bins_keep_the_order_of_lengths(one: float, other: float) -> None:
    low, high = BINS.index(np.array(sorted((one, other))))
    assert low <= high


def test_a_cut_answer_falls_in_the_open_bin() -> None:
    assert BINS.index(np.array([1023.0, 1024.0])).tolist() == [BINS.count - 2, BINS.count - 1]


@given(TOKENS, st.floats(0.3, 3))
def test_soft_labels_are_a_distribution_that_peaks_at_the_length(tokens: float, w: float) -> None:
    (label,) = BINS.soft_labels(np.array([tokens]), w)
    assert label.sum() == pytest.approx(1)
    nearest = int(BINS.index(np.array([tokens]))[0])
    assert label[nearest] >= label.max() - 1e-9


@given(distributions(), st.integers(1, 4096))
def test_expected_tokens_are_between_one_and_the_limit(p: Floats, limit: int) -> None:
    (expected,) = BINS.expected(p, np.array([float(limit)]))
    assert 1 <= expected <= limit + 1e-9


@given(distributions(), st.integers(1, 4096))
def test_quantiles_rise_and_stay_within_the_limit(p: Floats, limit: int) -> None:
    at = (0.1, 0.25, 0.5, 0.75, 0.9, 0.95)
    (found,) = BINS.quantiles(p, at, np.array([float(limit)]))
    assert np.isfinite(found).all()
    assert (np.diff(found) >= 0).all()
    assert found[0] >= 1
    assert found[-1] <= limit


def test_a_certain_length_is_predicted_as_itself() -> None:
    p = np.zeros((1, BINS.count))
    p[0, 30] = 1
    (expected,) = BINS.expected(p, np.array([4096.0]))
    (median,) = BINS.quantiles(p, [0.5], np.array([4096.0]))[0]
    assert expected == pytest.approx(BINS.values[30])
    assert median == pytest.approx(BINS.values[30], rel=1e-6)


def test_quantiles_cover_what_was_sampled() -> None:
    lengths = np.random.default_rng(1).lognormal(4.5, 0.8, size=20_000).clip(1, 1000)
    p = np.bincount(BINS.index(lengths), minlength=BINS.count)[None, :] / len(lengths)
    for at in (0.1, 0.5, 0.9):
        (found,) = BINS.quantiles(p, [at], np.array([1e6]))[0]
        assert (lengths <= found).mean() == pytest.approx(at, abs=0.01)


def test_rank_values_are_the_share_of_shorter_answers() -> None:
    lengths = np.array([2.0, 30.0, 30.0, 900.0])
    values = BINS.rank_values(lengths)
    assert values[BINS.index(lengths)].tolist() == pytest.approx([0.125, 0.5, 0.5, 0.875])
    assert (np.diff(values) >= 0).all()


@pytest.mark.parametrize(("count", "top", "beyond"), [(2, 10, 10), (8, 1, 5), (8, 20, 10)])
def test_impossible_bins_are_refused(count: int, top: int, beyond: int) -> None:
    with pytest.raises(ValueError, match="at least"):
        LengthBins(count, top, beyond)
