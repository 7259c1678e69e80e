from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from statistics import fmean, pstdev

import pytest

from ssjf_bench import arrivals
from ssjf_bench.arrivals import Renewal
from ssjf_bench.trace import Trace

TRACE = Trace((5.0, 6.0, 8.0, 20.0), (1, 1, 1, 1), (1, 1, 1, 1))


def gaps(times: tuple[float, ...]) -> list[float]:
    return [later - earlier for earlier, later in pairwise(times)]


@pytest.mark.parametrize("shape", [Renewal(), Renewal(3.0), TRACE])
def test_the_window_has_the_rate_asked_for(shape: arrivals.Arrivals) -> None:
    times = arrivals.times_s(shape, 4, rate_per_s=2.0, seed=1)
    assert times[0] == 0
    assert len(times) / times[-1] == pytest.approx(2.0)


@pytest.mark.parametrize("cv", [0.5, 1.0, 3.0])
def test_gaps_have_the_coefficient_of_variation(cv: float) -> None:
    found = gaps(arrivals.times_s(Renewal(cv), 20_000, rate_per_s=7.0, seed=3))
    assert pstdev(found) / fmean(found) == pytest.approx(cv, rel=0.05)


def test_a_seed_gives_the_same_pattern_at_every_rate() -> None:
    slow = arrivals.times_s(Renewal(), 50, rate_per_s=1.0, seed=4)
    fast = arrivals.times_s(Renewal(), 50, rate_per_s=10.0, seed=4)
    assert fast == pytest.approx([time_s / 10 for time_s in slow])
    assert slow != arrivals.times_s(Renewal(), 50, rate_per_s=1.0, seed=5)


def test_a_trace_keeps_its_shape() -> None:
    assert gaps(arrivals.times_s(TRACE, 4, 1.0, seed=1)) == pytest.approx([4 / 15, 8 / 15, 48 / 15])


def test_the_first_jobs_of_a_trace_are_taken() -> None:
    assert gaps(arrivals.times_s(TRACE, 3, 1.0, seed=1)) == pytest.approx([1.0, 2.0])


def test_more_jobs_than_a_trace_has_are_refused() -> None:
    with pytest.raises(ValueError, match="the trace has 4"):
        arrivals.times_s(TRACE, 5, 1.0, seed=1)


def test_arrivals_all_at_once_have_no_rate() -> None:
    at_once = Trace((1.0, 1.0, 1.1), (1,) * 3, (1,) * 3)
    with pytest.raises(ValueError, match="all of them at once"):
        arrivals.times_s(at_once, 2, 1.0, seed=1)


def test_names_are_parsed(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv"
    path.write_text("arrival_s,input_tokens,output_tokens\n0,1,2\n1,3,4\n", encoding="utf-8")
    assert arrivals.parse("poisson") == Renewal(1.0)
    assert arrivals.parse("gamma:2.5") == Renewal(2.5)
    assert arrivals.parse(str(path)) == Trace((0.0, 1.0), (1, 3), (2, 4))


@pytest.mark.parametrize("text", ["gamma:", "gamma:x", "gamma:0", "gamma:inf", "uniform"])
def test_other_names_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="arrivals"):
        arrivals.parse(text)
