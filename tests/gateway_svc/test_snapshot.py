from __future__ import annotations

import pytest

from gateway_svc import snapshot
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
