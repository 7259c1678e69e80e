"""Collecting lengths against a small engine over real gRPC."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor_svc.encoder import PromptText, Turn
from predictor_svc.training.collect import CollectError, Progress, Tally
from predictor_svc.training.collect_engine import EngineCollector
from predictor_svc.training.data import Prompt, join_lengths, read_examples
from predictor_svc.training.lengths_file import LengthsFile
from predictor_svc.training.sampling import Sampling
from ssjf.engine.v1 import engine_pb2, prompt_pb2
from ssjf.wire.schema import SCHEMA_REVISION
from tests.predictor_svc.fake_engine import FakeEngine, running

SAMPLING = Sampling(samples=3, max_tokens=20, temperature=0.7, top_p=0.95)


def prompts(*texts: str) -> list[Prompt]:
    return [Prompt(f"p{i}", "own", PromptText(text)) for i, text in enumerate(texts)]


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def collect(
    engine: FakeEngine,
    wanted: list[Prompt],
    out: Path,
    *,
    sampling: Sampling = SAMPLING,
    with_text: bool = True,
    concurrency: int | None = None,
) -> Progress:
    async with running(engine) as address:
        with LengthsFile(out, with_text=with_text) as file:
            missing = [prompt for prompt in wanted if prompt.digest not in file.done]
            tally = Tally(sampling, file.append, lambda _: None)
            return await EngineCollector(tally, concurrency).run(address, missing)


async def test_a_row_holds_every_sample_without_the_end_token(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await collect(FakeEngine(4), prompts("answer 7 please"), out)
    assert rows(out) == [
        {
            "prompt_id": "p0",
            "source": "own",
            "prompt": "answer 7 please",
            "response_samples": [7, 7, 7],
            "response_stopped": [True, True, True],
            "model": "fake-llm",
        }
    ]


async def test_samples_stand_in_their_order_not_in_that_of_their_ends(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await collect(FakeEngine(4), prompts("falling 7"), out)
    assert rows(out)[0]["response_samples"] == [7, 6, 5]


async def test_a_capped_answer_is_marked_as_not_stopped(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await collect(FakeEngine(4), prompts("answer 99"), out)
    assert rows(out)[0]["response_samples"] == [20, 20, 20]
    assert rows(out)[0]["response_stopped"] == [False, False, False]


async def test_all_places_are_filled_and_never_more(tmp_path: Path) -> None:
    engine = FakeEngine(8)
    done = await collect(engine, prompts(*[f"answer {n}" for n in range(1, 41)]), tmp_path / "o")
    assert done.prompts_done == 40
    assert done.answers == len(engine.sequences) == 120
    assert engine.most_running == 8


async def test_concurrency_bounds_the_answers_in_flight(tmp_path: Path) -> None:
    engine = FakeEngine(8)
    wanted = prompts(*[f"answer {n}" for n in range(1, 21)])
    await collect(engine, wanted, tmp_path / "out.jsonl", concurrency=2)
    assert engine.most_running == 2


async def test_the_stream_opens_with_the_schema_revision(tmp_path: Path) -> None:
    engine = FakeEngine(1)
    await collect(engine, prompts("answer 1"), tmp_path / "out.jsonl")
    assert engine.hello is not None
    assert engine.hello.schema_revision == SCHEMA_REVISION


async def test_seeds_differ_between_samples_and_repeat_between_runs(tmp_path: Path) -> None:
    seeded = Sampling(samples=2, max_tokens=20, temperature=0.7, top_p=0.95, seed=5)
    seeds = []
    for name in ("a", "b"):
        engine = FakeEngine(4)
        await collect(engine, prompts("answer 2"), tmp_path / name, sampling=seeded)
        seeds.append([sequence.sampling.seed for sequence in engine.sequences])
    assert seeds[0] == seeds[1]
    assert len(set(seeds[0])) == 2


async def test_a_prompt_that_never_fits_is_counted_and_the_rest_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    wanted = prompts("answer 3 " + "long " * 190, "refuse 1", "answer 4")
    done = await collect(FakeEngine(2), wanted, out)
    assert (done.prompts_done, done.prompts_failed) == (1, 2)
    assert [row["prompt"] for row in rows(out)] == ["answer 4"]


async def test_a_second_run_samples_only_what_is_missing(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    wanted = prompts("answer 1", "answer 2", "answer 3")
    await collect(FakeEngine(2), wanted[:2], out)
    engine = FakeEngine(2)
    await collect(engine, wanted, out)
    assert {sequence.prompt_token_ids[0] for sequence in engine.sequences} == {3}
    assert sorted(row["response_samples"][0] for row in rows(out)) == [1, 2, 3]


async def test_a_row_cut_short_by_a_crash_is_sampled_again(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await collect(FakeEngine(2), prompts("answer 1"), out)
    out.write_text(out.read_text() + '{"prompt_id": "p1", "prom')
    await collect(FakeEngine(2), prompts("answer 1", "answer 2"), out)
    assert [row["response_samples"][0] for row in rows(out)] == [1, 2]


async def test_an_engine_that_leaves_ends_the_run_and_keeps_the_rows(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    wanted = prompts(*[f"answer {n}" for n in range(1, 19)])
    # The reason is lost where a message was being sent at that moment.
    with pytest.raises(CollectError, match=r"UNAVAILABLE: going away|ended the stream"):
        await collect(FakeEngine(3, leave_after=12), wanted, out)
    assert 1 <= len(rows(out)) < 18


async def test_no_engine_is_one_clear_error(tmp_path: Path) -> None:
    collector = EngineCollector(Tally(SAMPLING, lambda *_: None, lambda _: None))
    with pytest.raises(CollectError, match=r"engine at 127\.0\.0\.1:9: UNAVAILABLE"):
        await collector.run("127.0.0.1:9", prompts("answer 1"))


async def test_lengths_without_text_join_their_prompts_by_hash(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    wanted = prompts("answer 1", "answer 2")
    await collect(FakeEngine(2), wanted, out, with_text=False)
    assert "answer" not in out.read_text()
    joined = join_lengths([out], [wanted[1]])
    assert [(each.prompt.text.prompt, each.lengths.tokens) for each in joined] == [
        ("answer 2", (2, 2, 2))
    ]
    again = FakeEngine(2)
    await collect(again, wanted, out, with_text=False)
    assert again.sequences == []


async def test_what_is_written_reads_back_as_training_data(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    await collect(FakeEngine(2), prompts("answer 5"), out)
    (example,) = read_examples([out])
    assert example.model == "fake-llm"
    assert example.lengths.tokens == (5, 5, 5)


async def test_a_run_in_which_nothing_fits_ends(tmp_path: Path) -> None:
    done = await collect(FakeEngine(2), prompts("answer 3 " + "long " * 190), tmp_path / "out")
    assert (done.prompts_done, done.prompts_failed) == (0, 1)


async def test_a_prompt_is_sampled_with_the_turns_before_it(tmp_path: Path) -> None:
    turns = (Turn("system", "Count."), Turn("user", "Hi"), Turn("assistant", "Hello"))
    prompt = Prompt("p", "own", PromptText("answer 3", turns), conversation="c1")
    engine = FakeEngine(4)
    await collect(engine, [prompt], tmp_path / "out.jsonl")
    assert engine.tokenized == [
        engine_pb2.TokenizeRequest(
            chat=prompt_pb2.Chat(
                messages=[
                    prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_SYSTEM, content="Count."),
                    prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_USER, content="Hi"),
                    prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_ASSISTANT, content="Hello"),
                    prompt_pb2.ChatMessage(role=prompt_pb2.CHAT_ROLE_USER, content="answer 3"),
                ]
            )
        )
    ]
    (example,) = read_examples([tmp_path / "out.jsonl"])
    assert example.prompt.text.turns == turns
    assert example.conversation == "c1"


async def test_a_prompt_that_fails_while_its_samples_run_is_counted_once(tmp_path: Path) -> None:
    engine = FakeEngine(2, fails=True)
    done = await collect(engine, prompts("answer 4", "answer 5", "answer 6"), tmp_path / "out")
    assert (done.prompts_done, done.prompts_failed) == (0, 3)
    assert len(engine.sequences) == 6  # the third sample of a failed prompt is not asked for
