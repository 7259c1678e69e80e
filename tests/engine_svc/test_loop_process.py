"""The engine loop in a process of its own, with the real child; its end is in `test_main`."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from engine_svc import loop_process
from engine_svc.config import EngineSettings
from engine_svc.loop_process import LoopProcess
from engine_svc.messages import Attach, Cancel, Detach, Report, Start, Stop
from ssjf.wire.run import StartupError

from .turns import make_sequence

TIMEOUT_S = 60


def settings(model: str) -> EngineSettings:
    return EngineSettings(model=model, device="cpu", threads=1, loop="process")


@pytest.fixture
async def loop(tiny_folder: Path) -> AsyncIterator[LoopProcess]:
    started = await loop_process.start(settings(str(tiny_folder)))
    yield started
    if not started.ended.done():
        started.post(Stop())
        await asyncio.wait([started.ended], timeout=TIMEOUT_S)


class Stream:
    """Reports as they come."""

    def __init__(self, loop: LoopProcess) -> None:
        self.reports: asyncio.Queue[Report] = asyncio.Queue()
        loop.post(Attach(self.reports.put_nowait))

    async def until_finished(self, sequence_id: int) -> list[int]:
        """The sequence's tokens."""
        tokens: list[int] = []
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                report = await self.reports.get()
                rows = zip(report.sequence_ids, report.token_ids, strict=True)
                tokens += [token for each, token in rows if each == sequence_id]
                if any(finished.sequence_id == sequence_id for finished in report.finished):
                    return tokens


async def test_streams_come_and_go_until_stop_ends_the_child(loop: LoopProcess) -> None:
    for each in (signal.SIGTERM, signal.SIGINT):
        os.kill(loop._process.pid, each)  # a whole process group's: the parent decides
    assert (loop.ready.vocabulary_size, loop.ready.device) == (49_152, "cpu")
    assert loop.tokenizer.decode(loop.tokenizer.encode_prompt("Hi"))
    first = Stream(loop)
    loop.post(Start(1, (make_sequence(1, max_tokens=400, ignore_eos=True),)))
    while not (await first.reports.get()).sequence_ids:
        pass
    loop.post(Detach())
    second = Stream(loop)
    before = first.reports.qsize()
    loop.post(Start(1, (make_sequence(2, max_tokens=5, ignore_eos=True),)))
    assert len(await second.until_finished(2)) == 5
    assert first.reports.qsize() == before
    loop.post(Cancel((2,)))
    loop.post(Stop())
    await asyncio.wait_for(loop.ended, TIMEOUT_S)


async def test_a_model_that_cannot_be_loaded_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(StartupError, match="no such file or folder"):
        await loop_process.start(settings(str(tmp_path / "none.gguf")))
