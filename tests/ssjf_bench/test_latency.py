from __future__ import annotations

import pytest

from ssjf_bench.latency import latency


def test_figures_are_in_milliseconds() -> None:
    found = latency([0.001 * n for n in range(1, 102)])
    assert found.calls == 101
    assert found.mean_ms == pytest.approx(51)
    assert (found.p50_ms, found.p90_ms, found.p99_ms) == pytest.approx((51, 91, 100))


def test_no_calls_have_no_figures() -> None:
    with pytest.raises(ValueError, match="no call ended"):
        latency([])
