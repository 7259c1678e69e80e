"""Services that are killed or told to stop, and what their clients see."""

from __future__ import annotations

import asyncio

import grpc

from ssjf_cli.stack import Stack
from tests.stack.generation import Client, connected, endless, is_free, request


async def test_without_an_engine_the_gateway_refuses_until_it_is_back(
    narrow: Stack, narrow_client: Client
) -> None:
    narrow.kill("engine")
    await narrow_client.until_serving(False)
    details = await narrow_client.failure(request())
    assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "NO_ENGINE")
    assert details.retry_after_s is not None
    await asyncio.to_thread(narrow.restart, "engine")
    await narrow_client.until_serving(True)
    assert (await narrow_client.generate(request(max_tokens=2))).kinds[-1] == "finished"


async def test_an_engine_killed_in_the_middle_of_an_answer_is_told_with_what_was_sent(
    narrow: Stack, narrow_client: Client
) -> None:
    running = await narrow_client.open(endless()).until("delta")
    waiting = await narrow_client.open(request(max_tokens=2)).until("queued")
    narrow.kill("engine")
    details = await running.failure()
    assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "ENGINE_LOST")
    assert details.metadata["tokens_sent"] == str(len(running.answer.token_ids))
    assert details.retry_after_s is not None
    # What waited holds its place until an engine is back.
    await asyncio.to_thread(narrow.restart, "engine")
    assert (await waiting.rest()).kinds[-1] == "finished"


async def test_a_gateway_told_to_stop_finishes_what_it_accepted(
    narrow: Stack, narrow_client: Client
) -> None:
    sampling = {"ignore_eos": True}
    running = await narrow_client.open(request(max_tokens=48, sampling=sampling)).until("delta")
    waiting = await narrow_client.open(request(max_tokens=2)).until("queued")
    narrow.process("gateway").terminate()
    await narrow_client.until_serving(False)
    details = await narrow_client.failure(request())
    assert (details.code, details.reason) == (grpc.StatusCode.UNAVAILABLE, "DRAINING")
    assert details.retry_after_s is not None
    assert len((await running.rest()).token_ids) == 48
    assert (await waiting.rest()).kinds[-1] == "finished"
    assert await asyncio.to_thread(narrow.process("gateway").wait, 60) == 0


async def test_a_second_signal_ends_the_rest_with_one_outcome_each(
    narrow: Stack, narrow_client: Client
) -> None:
    running = await narrow_client.open(endless()).until("delta")
    narrow.process("gateway").terminate()
    await narrow_client.until_serving(False)
    narrow.process("gateway").terminate()
    details = await running.failure()
    assert details.code is grpc.StatusCode.UNAVAILABLE
    assert await asyncio.to_thread(narrow.process("gateway").wait, 60) == 0


async def test_a_gateway_that_is_killed_leaves_nothing_at_the_engine(
    narrow: Stack, narrow_client: Client
) -> None:
    running = await narrow_client.open(endless()).until("delta")
    narrow.kill("gateway")
    assert (await running.failure()).code is grpc.StatusCode.UNAVAILABLE
    await asyncio.to_thread(narrow.restart, "gateway")
    async with connected(narrow.gateway_address) as client:
        await client.until_idle()
        (engine,) = (await client.info()).engines
        assert is_free(engine)
        assert (await client.generate(request(max_tokens=2))).kinds[-1] == "finished"
