"""`ssjf_bench.engine_load` against a real engine."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from ssjf_bench.engine_load import EngineLoadError, Work, measure, serve_load

from .conftest import Serving

Serve = Callable[..., Awaitable[Serving]]


async def test_every_sequence_gets_its_forced_length_and_all_tokens_are_counted(
    serve: Serve,
) -> None:
    serving = await serve(benchmark=True, max_sequences=3, kv_tokens=128)
    works = [Work((5, 6, 7), length) for length in (1, 30, 7, 12, 3)]
    figures = await serve_load(serving.listening.address, works)
    assert (figures.sequences, figures.tokens) == (5, 53)
    assert figures.tokens_per_s == pytest.approx(53 / figures.seconds)
    assert figures.step_ms > 0
    assert figures.first_token_ms > 0
    assert figures.steps_s > 0
    assert 30 <= figures.steps <= 53
    assert 0 < figures.messages <= figures.steps


async def test_measured_from_a_process_of_its_own(serve: Serve) -> None:
    serving = await serve(benchmark=True)
    works = [Work((5, 6, 7), length) for length in (4, 9)]
    found = await asyncio.to_thread(measure, serving.listening.address, works, 2)
    assert [figures.tokens for figures in found] == [13, 13]


async def test_what_fails_in_that_process_is_told(serve: Serve) -> None:
    serving = await serve()
    with pytest.raises(EngineLoadError, match="--benchmark"):
        await asyncio.to_thread(measure, serving.listening.address, [Work((5,), 1)], 1)


async def test_an_engine_that_takes_no_forced_lengths_is_refused(serve: Serve) -> None:
    serving = await serve()
    with pytest.raises(EngineLoadError, match="--benchmark"):
        await serve_load(serving.listening.address, [Work((5,), 1)])


async def test_a_sequence_that_can_never_run_is_refused(serve: Serve) -> None:
    serving = await serve(benchmark=True, kv_tokens=64)
    with pytest.raises(EngineLoadError, match="longer than"):
        await serve_load(serving.listening.address, [Work((5,), 64)])


async def test_an_engine_that_is_not_there_is_told(serve: Serve) -> None:
    serving = await serve(benchmark=True)
    async with serving.connect():
        with pytest.raises(EngineLoadError, match="ALREADY_EXISTS"):
            await serve_load(serving.listening.address, [Work((5,), 1)])
