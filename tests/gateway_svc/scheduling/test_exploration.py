from __future__ import annotations

import pytest

from gateway_svc.scheduling.bound import OvertakingBound
from gateway_svc.scheduling.entry import Entry
from gateway_svc.scheduling.invariants import BrokenInvariant
from tests.gateway_svc.scheduling.exploration import (
    LIAR,
    LONG,
    SAME,
    SHORT,
    Scenario,
    explore,
    small,
)


def no_one(bound: OvertakingBound, entry: Entry) -> None:
    del bound, entry


def named(scenario: Scenario) -> str:
    return f"{scenario.policy}-{len(scenario.lengths)}"


@pytest.mark.parametrize("scenario", list(small()), ids=named)
def test_every_interleaving_of_a_few_requests_keeps_what_is_promised(scenario: Scenario) -> None:
    assert explore(scenario) > 500


def test_exploration_notices_a_bound_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OvertakingBound, "blocker", no_one)
    with pytest.raises((AssertionError, BrokenInvariant)):
        explore(Scenario("lifo", (LONG, SHORT, LIAR, SAME), longest=2))
