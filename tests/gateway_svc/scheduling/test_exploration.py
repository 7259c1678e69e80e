from __future__ import annotations

import pytest

from gateway_svc.scheduling.bound import OvertakingBound
from gateway_svc.scheduling.entry import Entry
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


@pytest.mark.parametrize(
    "scenario", list(small()), ids=lambda each: f"{each.policy}-{len(each.lengths)}"
)
def test_every_interleaving_of_a_few_requests_keeps_what_is_promised(scenario: Scenario) -> None:
    assert explore(scenario) > 500


def test_exploration_notices_a_bound_that_is_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(OvertakingBound, "blocker", no_one)
    with pytest.raises(AssertionError):
        explore(Scenario("lifo", (LONG, SHORT, LIAR, SAME), longest=2))
