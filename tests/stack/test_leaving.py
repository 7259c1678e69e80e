"""Clients that cancel, run out of time or die."""

from __future__ import annotations

import asyncio
import signal
import sys
from asyncio.subprocess import PIPE

import grpc
import pytest

from ssjf_cli.stack import Stack
from tests.conftest import ENGINE_FLAGS
from tests.stack.generation import (
    Client,
    endless,
    request,
)

PLACES = ENGINE_FLAGS["max_sequences"]


async def test_cancelling_a_running_request_frees_its_place(client: Client) -> None:
    before = (await client.queue()).counters
    call = await client.open(endless()).until("delta")
    call.cancel()
    after = await client.until_idle()
    assert (after.cancelled, after.failed) == (before.cancelled + 1, before.failed)


async def test_cancelling_a_queued_request_frees_its_place(client: Client) -> None:
    before = (await client.queue()).counters
    await client.occupy(PLACES)
    call = await client.open(request()).until("queued")
    await client.until(lambda snapshot: snapshot.waiting_count == 1)
    call.cancel()
    snapshot = await client.until(lambda snapshot: snapshot.waiting_count == 0)
    assert snapshot.running_count == PLACES
    assert snapshot.counters.cancelled == before.cancelled + 1


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 130), (signal.SIGKILL, -9)]
)
async def test_a_client_that_is_ended_frees_everything(
    client: Client, stack: Stack, number: signal.Signals, code: int
) -> None:
    before = (await client.queue()).counters
    command = [sys.executable, "-m", "ssjf_cli", "generate", "Tell me everything."]
    other = await asyncio.create_subprocess_exec(
        *command, f"--address={stack.gateway_address}", stdout=PIPE, stderr=PIPE
    )
    assert other.stdout is not None
    assert await other.stdout.read(1)  # its answer has begun
    other.send_signal(number)
    await other.communicate()
    assert other.returncode == code
    after = await client.until_idle()
    assert after.cancelled == before.cancelled + 1


async def test_a_deadline_passes_in_the_queue(client: Client) -> None:
    before = (await client.queue()).counters
    hogs = await client.occupy(PLACES)
    details = await client.failure(request(), timeout=0.3)
    assert details.code is grpc.StatusCode.DEADLINE_EXCEEDED
    snapshot = await client.until(lambda snapshot: snapshot.waiting_count == 0)
    assert snapshot.running_count == len(hogs)
    assert snapshot.counters.failed == before.failed + 1


async def test_a_deadline_passes_in_the_middle_of_an_answer(client: Client) -> None:
    before = (await client.queue()).counters
    call = client.open(endless(), timeout=1.5)
    details = await call.failure()
    assert details.code is grpc.StatusCode.DEADLINE_EXCEEDED
    assert "delta" in call.answer.kinds
    after = await client.until_idle()
    assert after.failed + after.cancelled == before.failed + before.cancelled + 1


async def test_a_deadline_in_the_past_is_exceeded_at_once(client: Client) -> None:
    details = await client.failure(request(), timeout=0)
    assert details.code is grpc.StatusCode.DEADLINE_EXCEEDED


async def test_a_deadline_in_a_hundred_years_is_none(client: Client) -> None:
    answer = await client.open(request(max_tokens=1), timeout=100 * 365 * 86_400).rest()
    assert answer.finished.usage.output_tokens == 1


async def test_a_request_id_in_use_is_refused_and_the_first_is_unharmed(client: Client) -> None:
    first = await client.open(request(max_tokens=32, request_id="twice")).until("started")
    details = await client.failure(request(request_id="twice"))
    assert (details.code, details.reason) == (
        grpc.StatusCode.ALREADY_EXISTS,
        "DUPLICATE_REQUEST_ID",
    )
    assert (await first.rest()).queued.request_id == "twice"
    assert first.answer.kinds[-1] == "finished"


async def test_a_request_id_is_free_again_once_its_request_has_ended(client: Client) -> None:
    for _ in range(2):
        assert (await client.generate(request(max_tokens=1, request_id="again"))).finished
