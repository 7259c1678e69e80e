from __future__ import annotations

import asyncio
import subprocess
import sys
from typing import Any

import pytest

from tests.wire.conftest import GATEWAY, Serve


async def nothing(_request: Any, _context: Any) -> None: ...


async def exit_code(*arguments: str) -> int:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "ssjf.wire.health_check", *arguments), stderr=subprocess.DEVNULL
    )
    return await process.wait()


@pytest.mark.parametrize(("serving", "code"), [(True, 0), (False, 1)])
async def test_the_exit_code_is_the_health(serve: Serve, serving: bool, code: int) -> None:
    listening = await serve(nothing)
    await listening.health.set_all(serving=serving)
    assert await exit_code(listening.address) == code


async def test_one_service_can_be_asked_for(serve: Serve) -> None:
    listening = await serve(nothing)
    await listening.health.set(GATEWAY, serving=True)
    assert await exit_code(listening.address, GATEWAY) == 0
    assert await exit_code(listening.address) == 1


async def test_a_service_that_is_not_there_is_not_healthy(serve: Serve) -> None:
    listening = await serve(nothing)
    await listening.health.set_all(serving=True)
    assert await exit_code(listening.address, "ssjf.nobody.v1.NobodyService") == 1


async def test_nobody_listening_is_not_healthy() -> None:
    assert await exit_code("127.0.0.1:1") == 1


async def test_no_address_is_a_usage_error() -> None:
    assert await exit_code() == 1
