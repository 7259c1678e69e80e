from __future__ import annotations

import pytest

from gateway_svc import snapshot
from gateway_svc.scheduling import policy
from ssjf.gateway.v1 import gateway_pb2
from tests.gateway_svc.conftest import Start, ends
from tests.gateway_svc.fakes import FakeEngine


async def test_a_long_queue_is_not_drawn_up_anew_for_everyone_who_asks(
    start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(snapshot, "LONG", 2)
    monkeypatch.setattr(snapshot, "REST", 1e6)
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    answers = [await rig.queued("count to 2") for _ in range(3)]
    assert (await rig.queue()).waiting_count == 2
    answers.append(await rig.queued("count to 2"))
    assert (await rig.queue()).waiting_count == 3, "two are not many"
    answers.append(await rig.queued("count to 2"))
    assert (await rig.queue()).waiting_count == 3, "the last one again"
    assert (await rig.queue(max_entries=1)).waiting_count == 4, "another question"
    engine.by_hand = False
    await ends(answers)


@pytest.mark.parametrize("name", policy.names())
def test_every_policy_has_a_number_in_the_contract(name: str) -> None:
    assert snapshot._policy_number(name) != gateway_pb2.POLICY_UNSPECIFIED


def test_a_policy_without_a_number_is_shown_by_its_name_alone() -> None:
    assert snapshot._policy_number("home-made") == gateway_pb2.POLICY_UNSPECIFIED
