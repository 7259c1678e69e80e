from __future__ import annotations

import random
from math import inf

import pytest

from gateway_svc.scheduling.percentile import Percentile


def test_it_is_infinite_before_there_are_enough_values() -> None:
    percentile = Percentile(0.5, at_least=2)
    assert percentile.value == inf
    percentile.observe(1.0)
    assert percentile.value == inf
    percentile.observe(2.0)
    assert percentile.value == 2.0


@pytest.mark.parametrize("share", [0.5, 0.9, 0.99])
def test_that_share_of_the_window_is_below(share: float) -> None:
    draw = random.Random(1)
    values = [draw.choice([draw.random(), 0.5]) for _ in range(1000)]
    percentile = Percentile(share, window=200)
    for value in values:
        percentile.observe(value)
    assert percentile.value == sorted(values[-200:])[int(share * 200)]
