"""Collecting lengths through the real gateway, before fake engines.

A fake engine's answer has as many tokens as the prompt's last number says, the
end-of-sequence token among them: a length is one less.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from gateway_svc.__main__ import running_gateway
from gateway_svc.config import GatewaySettings
from predictor_svc.encoder import PromptText, Turn
from predictor_svc.training.collect import CollectError, Progress, Tally
from predictor_svc.training.collect_gateway import GatewayCollector
from predictor_svc.training.data import Prompt, read_examples
from predictor_svc.training.lengths_file import LengthsFile
from predictor_svc.training.sampling import Sampling
from ssjf.engine.v1 import engine_pb2
from tests.gateway_svc.fakes import FakeEngine, serving

SAMPLING = Sampling(samples=3, max_tokens=50, temperature=0.7, top_p=0.95)


class Listening(FakeEngine):
    """An engine that keeps what it was asked to tokenise, and counts what runs."""

    def __init__(self, **fields: Any) -> None:
        super().__init__(**fields)
        self.asked: list[engine_pb2.TokenizeRequest] = []
        self.most_running = 0

    async def Tokenize(  # noqa: N802
        self, request: engine_pb2.TokenizeRequest, context: Any
    ) -> engine_pb2.TokenizeResponse:
        self.asked.append(request)
        return await super().Tokenize(request, context)

    def step(self) -> None:
        self.most_running = max(self.most_running, len(self.running))
        super().step()


@asynccontextmanager
async def gateway(*engines: FakeEngine, **settings: Any) -> AsyncIterator[str]:
    async with AsyncExitStack() as stack:
        addresses = [await stack.enter_async_context(serving(engine)) for engine in engines]
        given = GatewaySettings(port=0, engines=",".join(addresses), predictor="none", **settings)
        running = await stack.enter_async_context(running_gateway(given))
        there = sum(not engine.absent for engine in engines)
        while len(running.fleet.connected) < there:  # noqa: ASYNC110 (knows no tests)
            await asyncio.sleep(0.002)
        yield running.listening.address


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(f"p{i}", "own", PromptText(text)) for i, text in enumerate(texts)]


async def collect(address: str, wanted: list[Prompt], out: Path, **options: Any) -> Progress:
    with LengthsFile(out, with_text=True) as file:
        missing = [prompt for prompt in wanted if prompt.digest not in file.done]
        tally = Tally(SAMPLING, file.append, lambda _: None)
        return await GatewayCollector(tally, **options).run(address, missing)


async def test_rows_are_those_that_an_engine_would_give(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    async with gateway(FakeEngine(model="tiny")) as address:
        done = await collect(address, prompts("count to 9", "count to 5"), out)
    assert done == Progress(prompts_done=2, answers=6, output_tokens=3 * 8 + 3 * 4)
    examples = {each.prompt.prompt_id: each for each in read_examples([out])}
    assert examples["p0"].lengths.tokens == (8, 8, 8)
    assert examples["p0"].lengths.stopped == (True, True, True)
    assert examples["p1"].lengths.tokens == (4, 4, 4)
    assert examples["p1"].model == "tiny"


async def test_a_prompt_is_sampled_with_the_turns_before_it(tmp_path: Path) -> None:
    engine = Listening()
    turns = (Turn("user", "say"), Turn("assistant", "what?"), Turn("tool", "so far"))
    prompt = Prompt("p", "own", PromptText("count to 4", turns))
    async with gateway(engine) as address:
        await collect(address, [prompt], tmp_path / "out.jsonl")
    contents = [message.content for message in engine.asked[0].chat.messages]
    assert contents == ["say", "what?", "so far", "count to 4"]


async def test_a_full_queue_is_waited_for(tmp_path: Path) -> None:
    wanted = prompts(*[f"count to {n}" for n in range(2, 14)])
    async with gateway(FakeEngine(places=1), max_queued=1) as address:
        done = await collect(address, wanted, tmp_path / "out.jsonl", concurrency=8)
    assert (done.prompts_done, done.prompts_failed, done.answers) == (12, 0, 36)


async def test_concurrency_bounds_the_requests_in_the_gateway(tmp_path: Path) -> None:
    engine = Listening(places=8)
    wanted = prompts(*[f"count to {n}" for n in range(40, 45)])
    async with gateway(engine) as address:
        await collect(address, wanted, tmp_path / "out.jsonl", concurrency=3)
    assert engine.most_running == 3


async def test_a_prompt_that_is_refused_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    async with gateway(FakeEngine(context_tokens=100)) as address:
        done = await collect(address, prompts("long " * 90, "count to 3"), out, concurrency=2)
    assert (done.prompts_done, done.prompts_failed) == (1, 1)
    assert [each.prompt.prompt_id for each in read_examples([out])] == ["p1"]


async def test_a_second_run_samples_only_what_is_missing(tmp_path: Path) -> None:
    out, engine = tmp_path / "out.jsonl", Listening()
    async with gateway(engine) as address:
        await collect(address, prompts("count to 2"), out)
        done = await collect(address, prompts("count to 2", "count to 3"), out)
    assert done.answers == 3
    assert [each.lengths.tokens[0] for each in read_examples([out])] == [1, 2]


async def test_an_engine_that_comes_late_is_waited_for(tmp_path: Path) -> None:
    engine = FakeEngine(model="tiny", absent=True)
    async with gateway(engine) as address:
        collecting = asyncio.create_task(
            collect(address, prompts("count to 6"), tmp_path / "out.jsonl")
        )
        await asyncio.sleep(0.3)
        assert not collecting.done()
        engine.come_back()
        assert (await collecting).prompts_done == 1
    (example,) = read_examples([tmp_path / "out.jsonl"])
    assert example.model == "tiny"


async def test_no_gateway_is_given_up_with_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(CollectError, match=r"gateway at 127\.0\.0\.1:9: UNAVAILABLE"):
        await collect("127.0.0.1:9", prompts("count to 2"), tmp_path / "out", patience_s=0.3)


async def test_what_is_no_gateway_is_said_at_once(tmp_path: Path) -> None:
    async with serving(FakeEngine()) as address:
        with pytest.raises(CollectError, match="UNIMPLEMENTED"):
            await collect(address, prompts("count to 2"), tmp_path / "out.jsonl")
