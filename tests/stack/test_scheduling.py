"""What waits and in which order, with one place at the engine."""

from __future__ import annotations

import grpc

from ssjf.gateway.v1 import gateway_pb2
from tests.stack.conftest import NARROW_QUEUE
from tests.stack.generation import Client, request

LONG = "Write a detailed essay of two thousand words on the history of Europe."
SHORT = "What is the capital of France? Answer with one word."


async def test_the_shortest_predicted_starts_first(narrow_client: Client) -> None:
    (hog,) = await narrow_client.occupy(1)
    first = await narrow_client.open(request(LONG, max_tokens=1024, request_id="long")).until(
        "queued"
    )
    second = await narrow_client.open(request(SHORT, max_tokens=1024, request_id="short")).until(
        "queued"
    )
    snapshot = await narrow_client.until(
        lambda s: (
            {entry.prediction_source for entry in s.waiting}
            == {gateway_pb2.PREDICTION_SOURCE_MODEL}
        )
    )
    assert [entry.request_id for entry in snapshot.waiting] == ["short", "long"]
    hog.cancel()
    await second.until("started")
    assert "started" not in first.answer.kinds
    second.cancel()
    await first.until("started")


async def test_a_higher_class_goes_before_a_shorter_request(narrow_client: Client) -> None:
    (hog,) = await narrow_client.occupy(1)
    classes = {
        "batch": gateway_pb2.PRIORITY_CLASS_BATCH,
        "standard": gateway_pb2.PRIORITY_CLASS_STANDARD,
        "urgent": gateway_pb2.PRIORITY_CLASS_URGENT,
    }
    for tokens, (name, priority) in enumerate(classes.items(), start=1):
        message = request(max_tokens=tokens, request_id=name, priority=priority)
        await narrow_client.open(message).until("queued")
    snapshot = await narrow_client.until(lambda s: s.waiting_count == 3)
    assert [entry.request_id for entry in snapshot.waiting] == ["urgent", "standard", "batch"]
    hog.cancel()


async def test_a_full_queue_refuses_at_once_and_says_when_to_try_again(
    narrow_client: Client,
) -> None:
    await narrow_client.occupy(1)
    for _ in range(NARROW_QUEUE):
        await narrow_client.open(request()).until("queued")
    details = await narrow_client.failure(request())
    assert (details.code, details.reason) == (grpc.StatusCode.RESOURCE_EXHAUSTED, "QUEUE_FULL")
    assert len(details.quota) == 1
    assert details.retry_after_s is not None
    assert details.retry_after_s > 0


async def test_a_place_that_is_freed_is_taken_again(narrow_client: Client) -> None:
    (hog,) = await narrow_client.occupy(1)
    waiting = [
        await narrow_client.open(request(max_tokens=2)).until("queued") for _ in range(NARROW_QUEUE)
    ]
    waiting.pop().cancel()
    await narrow_client.until(lambda s: s.waiting_count == NARROW_QUEUE - 1)
    replacement = await narrow_client.open(request(max_tokens=2)).until("queued")
    hog.cancel()
    for call in (*waiting, replacement):
        assert (await call.rest()).kinds[-1] == "finished"
