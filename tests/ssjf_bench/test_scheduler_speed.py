from __future__ import annotations

import pytest

from gateway_svc.scheduling import policy
from ssjf_bench.scheduler_speed import SpeedLoad, measure


@pytest.mark.parametrize("name", policy.names())
def test_every_call_of_every_turn_is_timed(name: str) -> None:
    speed = measure(SpeedLoad(name, queued=20, turns=50, tenants=3))
    assert [speed.submit.calls, speed.finish.calls, speed.decide.calls] == [50, 50, 50]
    assert speed.turn_us > 0


def test_an_unknown_policy_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown policy"):
        measure(SpeedLoad("longest", queued=1, turns=1))
