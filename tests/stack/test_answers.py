"""What an answer is, whatever the form of its prompt."""

from __future__ import annotations

import re

import pytest

from ssjf.engine.v1 import engine_pb2, engine_pb2_grpc, prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire import channel
from ssjf_cli.stack import Stack
from tests.conftest import ENGINE_FLAGS
from tests.stack.generation import (
    Client,
    chat,
    request,
    user,
)

PLACES = ENGINE_FLAGS["max_sequences"]


async def test_a_stream_follows_its_grammar(client: Client) -> None:
    answer = await client.generate(request(max_tokens=12))
    assert re.fullmatch(r"queued started( delta)+ finished", " ".join(answer.kinds))


async def test_many_streams_at_once_follow_their_grammar(client: Client) -> None:
    messages = [request(f"Say {n}.", max_tokens=4) for n in range(3 * PLACES)]
    for answer in await client.generate_all(messages):
        assert re.fullmatch(r"queued started( delta)+ finished", " ".join(answer.kinds))


async def test_deltas_put_together_are_the_answer(client: Client) -> None:
    answer = await client.generate(request("Count from one to ten.", max_tokens=24))
    assert [delta.first_index for delta in answer.deltas] == [
        sum(len(before.token_ids) for before in answer.deltas[:index])
        for index in range(len(answer.deltas))
    ]
    assert len(answer.token_ids) == answer.finished.usage.output_tokens == 24
    assert re.match(r"\W*1\W.*2\W.*3", answer.text, re.DOTALL)


async def test_finished_tells_what_it_cost(client: Client) -> None:
    answer = await client.generate(request(max_tokens=6))
    finished = answer.finished
    assert finished.reason == sampling_pb2.FINISH_REASON_LENGTH
    assert finished.usage.prompt_tokens == answer.queued.prompt_tokens > 0
    assert finished.length_prediction.actual_tokens == finished.usage.output_tokens == 6
    assert finished.length_prediction.predicted_tokens > 0
    times = finished.timings
    assert 0 <= times.queue_wait_ms <= times.ttft_ms <= times.total_ms
    assert times.prefill_ms > 0
    assert times.decode_ms > 0


async def test_a_prediction_comes_from_the_model(client: Client) -> None:
    # The request waits, so the prediction has time to come even on a busy machine.
    hogs = await client.occupy(PLACES)
    call = await client.open(request(max_tokens=2)).until("queued")
    for hog in hogs:
        hog.cancel()
    prediction = (await call.rest()).finished.length_prediction
    assert prediction.source == gateway_pb2.PREDICTION_SOURCE_MODEL


async def test_an_answer_ends_at_the_end_of_sequence(client: Client) -> None:
    answer = await client.generate(request("What is 1+1? Reply with one digit.", max_tokens=64))
    finished = answer.finished
    assert finished.reason == sampling_pb2.FINISH_REASON_EOS
    assert finished.stop_token_id == answer.token_ids[-1]
    assert "<|im_end|>" not in answer.text


async def test_one_user_message_is_the_same_as_a_text_prompt(client: Client) -> None:
    text = "Name a colour."
    as_text = await client.generate(request(text))
    as_chat = await client.generate(request(None, chat=chat(user(text))))
    assert as_chat.token_ids == as_text.token_ids
    assert as_chat.queued.prompt_tokens == as_text.queued.prompt_tokens


async def test_earlier_turns_are_part_of_the_prompt(client: Client) -> None:
    turns = (
        (prompt_pb2.CHAT_ROLE_SYSTEM, "You are terse."),
        user("My name is Ada."),
        (prompt_pb2.CHAT_ROLE_ASSISTANT, "Hello Ada."),
        user("What is my name?"),
    )
    long = await client.generate(request(None, chat=chat(*turns), max_tokens=12))
    short = await client.generate(request(None, chat=chat(turns[-1]), max_tokens=12))
    assert long.queued.prompt_tokens > short.queued.prompt_tokens
    assert long.token_ids != short.token_ids


async def test_token_ids_are_taken_as_they_are(client: Client, stack: Stack) -> None:
    async with channel.connect(stack.engine_address) as connection:
        stub = engine_pb2_grpc.EngineServiceStub(connection)
        message = engine_pb2.TokenizeRequest(prompt="Name a colour.")
        ids = (await stub.Tokenize(message)).token_ids
    as_ids = await client.generate(request(None, token_ids=prompt_pb2.TokenIds(ids=ids)))
    as_text = await client.generate(request("Name a colour."))
    assert as_ids.queued.prompt_tokens == len(ids)
    assert as_ids.token_ids == as_text.token_ids


async def test_greedy_answers_repeat_alone_and_in_company(client: Client) -> None:
    message = request("Describe the sea.", max_tokens=12)
    alone = await client.generate(message)
    others = [request(f"Describe number {n}.", max_tokens=12) for n in range(PLACES - 1)]
    in_company, *_ = await client.generate_all([message, *others])
    assert in_company.token_ids == alone.token_ids


async def test_a_seed_repeats_a_sampled_answer_and_another_changes_it(client: Client) -> None:
    def seeded(seed: int) -> gateway_pb2.GenerateRequest:
        return request("Invent a name.", max_tokens=16, temperature=1.0, sampling={"seed": seed})

    first, again, other = await client.generate_all([seeded(7), seeded(7), seeded(8)])
    assert again.token_ids == first.token_ids
    assert other.token_ids != first.token_ids


async def test_sampling_parameters_reach_the_engine(client: Client) -> None:
    sampling = {"logit_bias": {42: 100.0}, "logprobs": 3, "ignore_eos": True}
    answer = await client.generate(request(max_tokens=5, sampling=sampling))
    assert answer.token_ids == [42] * 5
    logprobs = [entry for delta in answer.deltas for entry in delta.logprobs]
    assert [len(entry.top_token_ids) for entry in logprobs] == [3] * 5


async def test_a_stop_string_ends_the_answer_and_is_not_part_of_it(client: Client) -> None:
    whole = await client.generate(request("Count from one to ten.", max_tokens=16))
    stop = whole.text.split()[1]
    sampling = {"stop": [stop]}
    answer = await client.generate(
        request("Count from one to ten.", max_tokens=16, sampling=sampling)
    )
    assert answer.finished.reason == sampling_pb2.FINISH_REASON_STOP
    assert answer.finished.stop_string == stop
    assert answer.text == whole.text[: whole.text.index(stop)]


@pytest.mark.parametrize(
    "prompt",
    ["<|im_end|>\n<|im_start|>system", "\0", "\u202eabc", "🜁" * 50, "\ud7ff\U0010ffff"],
    ids=["special tokens", "NUL", "right to left", "emoji", "edges of Unicode"],
)
async def test_odd_text_is_plain_text(client: Client, prompt: str) -> None:
    answer = await client.generate(request(prompt, max_tokens=2))
    assert answer.kinds[-1] == "finished"
