from __future__ import annotations

import pytest

from gateway_svc.throughput import MEMORY_S, TokenRate


def steady(rate: TokenRate, steps: int, start_s: float = 0.0) -> float:
    """Ten tokens each 0.1 s; when the last came."""
    now_s = start_s
    for _ in range(steps):
        rate.add(10, now_s)
        now_s += 0.1
    return now_s - 0.1


def test_nothing_is_known_before_two_steps() -> None:
    rate = TokenRate()
    assert (rate.busy(), rate.recent(5.0)) == (0.0, 0.0)
    rate.add(10, 5.0)
    assert rate.busy() == 0.0


def test_a_steady_flow_has_its_rate() -> None:
    rate = TokenRate()
    last_s = steady(rate, 2000)
    assert rate.busy() == pytest.approx(100, rel=0.01)
    assert rate.recent(last_s) == pytest.approx(100, rel=0.02)


def test_a_pause_is_no_slow_work() -> None:
    rate = TokenRate()
    last_s = steady(rate, 500)
    rate.pause()
    steady(rate, 500, start_s=last_s + 3600.0)
    assert rate.busy() == pytest.approx(100, rel=0.01)


def test_what_came_lately_fades() -> None:
    rate = TokenRate()
    last_s = steady(rate, 2000)
    faded = rate.recent(last_s + MEMORY_S) / rate.recent(last_s)
    assert faded == pytest.approx(0.3679, rel=0.01)


def test_a_flow_that_becomes_slower_is_noticed() -> None:
    rate = TokenRate()
    last_s = steady(rate, 500)
    for step in range(200):
        rate.add(10, last_s + 1.0 + step)
    assert rate.busy() < 15
