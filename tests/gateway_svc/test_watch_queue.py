"""GetQueue and WatchQueue: what an operator sees, and why requests wait."""

from __future__ import annotations

import asyncio
import math
from typing import Any

import grpc
import pytest
from prometheus_client import REGISTRY

from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire import errors
from tests.gateway_svc.conftest import Start, ends, until
from tests.gateway_svc.fakes import FakeEngine, FakePredictor

URGENT = gateway_pb2.PRIORITY_CLASS_URGENT
BATCH = gateway_pb2.PRIORITY_CLASS_BATCH
STANDARD = gateway_pb2.PRIORITY_CLASS_STANDARD


def waited_s(priority: str, reason: str) -> float:
    labels = {"priority": priority, "reason": reason}
    return REGISTRY.get_sample_value("ssjf_gateway_wait_seconds_total", labels) or 0.0


async def test_the_queue_is_shown_by_class_tenant_and_engine(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor)
    answers = [
        await rig.queued(f"count to {n}", priority=priority)
        for n, priority in ((9, STANDARD), (30, URGENT), (20, BATCH), (5, STANDARD), (6, STANDARD))
    ]
    shown = await rig.queue()
    by_class = {each.priority: each for each in shown.classes}
    assert [each.priority for each in shown.classes] == [URGENT, STANDARD, BATCH]
    assert (by_class[STANDARD].waiting_count, by_class[STANDARD].running_count) == (2, 1)
    assert by_class[STANDARD].queued_tokens == 11.0
    assert by_class[URGENT].longest_wait_ms > 0
    (tenant,) = shown.tenants
    assert (tenant.tenant, tenant.waiting_count, tenant.running_count) == ("", 4, 1)
    assert tenant.queued_tokens == shown.queued_tokens == 61.0
    (shown_engine,) = shown.engines
    assert (shown_engine.engine_id, shown_engine.max_sequences) == ("fake", 1)
    assert math.isinf(shown.predicted_wait_s), "no answer has been timed yet"
    engine.by_hand = False
    await ends(answers)
    shown = await rig.queue()
    assert shown.tenants[0].output_tokens == 70
    assert shown.output_tokens_per_s > 0


async def test_every_waiting_request_has_a_reason(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor)
    answers = [
        await rig.queued(f"count to {n}", request_id=name, priority=priority)
        for name, n, priority in (
            ("runs", 9, STANDARD),
            ("next", 3, URGENT),
            ("longer", 30, URGENT),
            ("lower", 2, STANDARD),
        )
    ]
    reasons = {e.request_id: e.wait_reason for e in (await rig.queue()).waiting}
    assert reasons == {
        "next": gateway_pb2.WAIT_REASON_PLACE,
        "longer": gateway_pb2.WAIT_REASON_ORDER,
        "lower": gateway_pb2.WAIT_REASON_CLASS,
    }
    assert (await rig.queue()).running[0].wait_reason == gateway_pb2.WAIT_REASON_UNSPECIFIED
    engine.by_hand = False
    await ends(answers)


async def test_a_request_that_waits_for_memory_says_so(start: Start) -> None:
    engine = FakeEngine(places=4, kv_tokens=100, by_hand=True)
    rig = await start(engine)
    answers = [await rig.queued("count to 5", max_tokens=60) for _ in range(2)]
    (entry,) = (await rig.queue()).waiting
    assert entry.wait_reason == gateway_pb2.WAIT_REASON_KV
    engine.by_hand = False
    await ends(answers)


async def test_a_request_that_waits_for_an_engine_says_so(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    answer = await rig.queued("count to 5")
    engine.die()
    await rig.engines(0)
    (entry,) = (await rig.queue()).waiting
    assert entry.wait_reason == gateway_pb2.WAIT_REASON_NO_ENGINE
    engine.by_hand = False
    engine.come_back()
    await answer.end()


async def test_the_time_waited_is_counted_by_its_reasons(start: Start) -> None:
    engine, predictor = FakeEngine(places=1, by_hand=True), FakePredictor()
    rig = await start(engine, predictor=predictor)
    answers = [await rig.queued(f"count to {n}") for n in (9, 3, 30, 40)]
    keys = [("standard", "place"), ("standard", "order"), ("standard", "kv")]
    before = [waited_s(*key) for key in keys]
    rig.gateway.parts.watch.look(2.0)
    gained = [waited_s(*key) - was for key, was in zip(keys, before, strict=True)]
    assert gained == [2.0, 4.0, 0.0]
    level = REGISTRY.get_sample_value(
        "ssjf_gateway_waiting_requests_by_reason", {"priority": "standard", "reason": "order"}
    )
    assert level == 2.0
    engine.by_hand = False
    await ends(answers)
    rig.gateway.parts.watch.look(2.0)
    assert waited_s("standard", "order") - before[1] == 4.0, "nothing waits any more"


async def test_waits_are_shown_by_the_length_of_the_answer(start: Start) -> None:
    predictor = FakePredictor()
    rig = await start(FakeEngine(places=1), predictor=predictor)
    await ends([rig.generate(f"count to {n}") for n in (3, 40, 5)])
    buckets = {each.from_tokens: each for each in (await rig.queue()).waits}
    assert {start: each.count for start, each in buckets.items()} == {0: 2, 32: 1}
    assert (buckets[0].below_tokens, buckets[32].below_tokens) == (32, 64)
    assert (buckets[0].mean_predicted_tokens, buckets[0].mean_actual_tokens) == (4.0, 4.0)
    assert buckets[0].mean_wait_ms >= 0
    assert buckets[0].p90_wait_ms >= buckets[0].mean_wait_ms


async def test_watching_gives_the_snapshot_again_and_again(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    answers = [await rig.queued("count to 3")]
    watch: Any = rig.stub.WatchQueue(gateway_pb2.WatchQueueRequest(interval_ms=50))
    seen = [(await watch.read()).queue.waiting_count]
    answers.append(await rig.queued("count to 3"))
    while seen[-1] != 1:
        seen.append((await watch.read()).queue.waiting_count)
    engine.by_hand = False
    await ends(answers)
    while seen[-1] != 0:
        seen.append((await watch.read()).queue.waiting_count)
    assert seen[0] == 0
    watch.cancel()


async def test_a_watch_shows_no_more_entries_than_were_asked_for(start: Start) -> None:
    engine = FakeEngine(places=1, by_hand=True)
    rig = await start(engine)
    answers = [await rig.queued("count to 3") for _ in range(4)]
    watch: Any = rig.stub.WatchQueue(gateway_pb2.WatchQueueRequest(max_entries=2))
    queue = (await watch.read()).queue
    assert (len(queue.waiting), queue.waiting_count) == (2, 3)
    watch.cancel()
    engine.by_hand = False
    await ends(answers)


@pytest.mark.parametrize("interval_ms", [0, 49, 60_001])
async def test_an_interval_out_of_range_is_refused(start: Start, interval_ms: int) -> None:
    rig = await start(FakeEngine())
    watch: Any = rig.stub.WatchQueue(gateway_pb2.WatchQueueRequest(interval_ms=interval_ms))
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await watch.read()
    failure = errors.decode(caught.value)
    assert failure.code is grpc.StatusCode.INVALID_ARGUMENT
    assert [violation.field for violation in failure.violations] == ["interval_ms"]


async def test_a_watcher_does_not_hold_up_a_drain(start: Start) -> None:
    rig = await start(FakeEngine())
    watch: Any = rig.stub.WatchQueue(gateway_pb2.WatchQueueRequest(interval_ms=50))
    await watch.read()
    await asyncio.wait_for(rig.admission.drain(), 10)
    watch.cancel()


async def test_deltas_come_no_faster_than_was_asked_for(start: Start) -> None:
    engine = FakeEngine(by_hand=True)
    rig = await start(engine)
    stream = gateway_pb2.StreamOptions(delta_interval_ms=60_000)
    answer = await rig.queued("count to 9", stream=stream)
    await until(lambda: engine.running)
    engine.step()
    await answer.has("delta")
    for _ in range(7):
        engine.step()
    live = rig.dispatcher.live(engine.only)
    await until(lambda: live.output_tokens == 8)
    assert [len(delta.token_ids) for delta in answer.deltas] == [1]
    engine.step()
    await answer.end()  # the end waits for no interval
    assert [len(delta.token_ids) for delta in answer.deltas] == [1, 8]
    assert answer.token_ids == list(range(9))


async def test_an_interval_between_deltas_has_a_range(start: Start) -> None:
    rig = await start(FakeEngine())
    stream = gateway_pb2.StreamOptions(delta_interval_ms=60_001)
    failure = await rig.generate("count to 3", stream=stream).failure()
    assert [each.field for each in failure.violations] == ["stream.delta_interval_ms"]
