"""Arrivals as the paper draws them, and as they ought to be."""

from __future__ import annotations

import numpy as np
import pytest

from ssjf_bench.as_published import Rules
from ssjf_bench.as_published_arrivals import Gamma, Kind, Poisson, Replayed, at_rate
from ssjf_bench.trace import Trace

TRACE = Trace(tuple(0.013 * each**2 for each in range(60)), (1,) * 60, (1,) * 60)
KINDS = (Poisson(), Gamma(), Replayed("trace", TRACE))
PUBLISHED = Rules()
NATURAL = Rules(arrivals_as_published=False, milliseconds_as_seconds=False, jobs=2000)


def random(seed: int = 1) -> np.random.Generator:
    return np.random.default_rng(seed)


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.name)
def test_fifty_jobs_arrive_in_order(kind: Kind) -> None:
    for value in kind.values:
        times_s = kind.times_s(value, PUBLISHED, random())
        assert len(times_s) == 50
        assert (np.diff(times_s) >= 0).all()


@pytest.mark.parametrize("kind", KINDS, ids=lambda each: each.name)
def test_one_seed_gives_the_same_arrivals(kind: Kind) -> None:
    first = kind.times_s(kind.values[1], PUBLISHED, random())
    assert (first == kind.times_s(kind.values[1], PUBLISHED, random())).all()


def test_published_poisson_arrivals_stand_on_whole_seconds() -> None:
    times_s = Poisson().times_s(5.0, PUBLISHED, random())
    assert (times_s == np.round(times_s)).all()


def test_natural_poisson_arrivals_come_at_their_rate() -> None:
    times_s = Poisson().times_s(5.0, NATURAL, random())
    assert 2000 / times_s[-1] == pytest.approx(5.0, rel=0.1)


def test_published_gamma_gaps_only_ever_grow() -> None:
    gaps_s = np.diff(Gamma().times_s(3.0, PUBLISHED, random()))
    assert (np.diff(gaps_s) >= -1e-9).all()


def test_natural_gamma_gaps_have_the_variation_asked_for() -> None:
    gaps_s = np.diff(Gamma().times_s(2.0, NATURAL, random()))
    assert gaps_s.std() / gaps_s.mean() == pytest.approx(2.0, rel=0.2)
    assert (np.diff(gaps_s) < 0).any()


def test_a_published_trace_takes_its_milliseconds_for_seconds() -> None:
    whole = Replayed("trace", TRACE)
    times_s = whole.times_s(2.0, Rules(jobs=60), random())
    assert times_s == pytest.approx(np.array(TRACE.arrivals_s) * 500, abs=0.05 + 1e-9)


def test_a_natural_trace_is_as_recorded_at_scale_one() -> None:
    rules = Rules(arrivals_as_published=False, milliseconds_as_seconds=False, jobs=60)
    times_s = Replayed("trace", TRACE).times_s(1.0, rules, random())
    assert times_s == pytest.approx(TRACE.arrivals_s)


def test_a_trace_with_too_few_jobs_is_refused() -> None:
    with pytest.raises(ValueError, match="61 jobs, but the trace has 60"):
        Replayed("trace", TRACE).times_s(1.0, Rules(jobs=61), random())


def test_stretched_arrivals_have_the_rate() -> None:
    assert at_rate(np.array([2.0, 3.0, 6.0]), 0.5) == pytest.approx([0.0, 1.5, 6.0])


def test_arrivals_at_once_have_no_rate() -> None:
    with pytest.raises(ValueError, match="no rate"):
        at_rate(np.array([2.0, 2.0]), 1.0)
