"""What the gateway refuses, and what it tells of it."""

from __future__ import annotations

from typing import Any

import grpc
import pytest

from ssjf.engine.v1 import prompt_pb2
from ssjf.wire import errors
from tests.conftest import ENGINE_FLAGS
from tests.stack.generation import (
    GATEWAY,
    Client,
    chat,
    request,
    user,
)

PLACES = ENGINE_FLAGS["max_sequences"]
NOT_A_MESSAGE = b"\xff\xff\xff\xff"
BAD_UTF8 = b"\x0a\x02\xff\xfe"  # field 1, a string of two bytes


BAD: list[tuple[str, dict[str, Any], set[str]]] = [
    ("nothing", {"prompt": None}, {"input"}),
    ("empty prompt", {"prompt": ""}, {"prompt"}),
    ("prompt over 1 MiB", {"prompt": "x" * (1024 * 1024 + 1)}, {"prompt"}),
    ("prompt over the context", {"prompt": "word " * 4000, "max_tokens": 1}, {"prompt"}),
    ("no messages", {"prompt": None, "chat": prompt_pb2.Chat()}, {"chat.messages"}),
    (
        "too many messages",
        {"prompt": None, "chat": chat(*[user("x")] * 2000)},
        {"chat.messages"},
    ),
    ("empty messages", {"prompt": None, "chat": chat(user(""))}, {"chat"}),
    ("no role", {"prompt": None, "chat": chat((0, "a"), user("b"))}, {"chat.messages[0].role"}),
    ("odd role", {"prompt": None, "chat": chat((9, "a"), user("b"))}, {"chat.messages[0].role"}),
    (
        "late system message",
        {"prompt": None, "chat": chat(user("a"), (1, "b"), user("c"))},
        {"chat.messages[1].role"},
    ),
    (
        "assistant last",
        {"prompt": None, "chat": chat(user("a"), (3, "b"))},
        {"chat.messages[1].role"},
    ),
    ("no token ids", {"prompt": None, "token_ids": prompt_pb2.TokenIds()}, {"token_ids.ids"}),
    (
        "token id beyond the vocabulary",
        {"prompt": None, "token_ids": prompt_pb2.TokenIds(ids=[1, 49_152])},
        {"token_ids.ids"},
    ),
    (
        "token ids over the context",
        {"prompt": None, "token_ids": prompt_pb2.TokenIds(ids=[1] * 10_000)},
        {"token_ids.ids"},
    ),
    ("max_tokens 0", {"max_tokens": 0}, {"sampling.max_tokens"}),
    ("max_tokens beyond all", {"max_tokens": 2**32 - 1}, {"sampling.max_tokens"}),
    ("max_tokens over what the prompt leaves", {"max_tokens": 2047}, {"sampling.max_tokens"}),
    ("min over max", {"sampling": {"min_tokens": 9}, "max_tokens": 8}, {"sampling.min_tokens"}),
    (
        "min over the context",
        {"sampling": {"min_tokens": 5000, "max_tokens": None}},
        {"sampling.min_tokens"},
    ),
    ("top_k over the vocabulary", {"sampling": {"top_k": 49_153}}, {"sampling.top_k"}),
    ("too many logprobs", {"sampling": {"logprobs": 1_000_000}}, {"sampling.logprobs"}),
    ("17 stops", {"sampling": {"stop": ["x"] * 17}}, {"sampling.stop"}),
    ("empty stop", {"sampling": {"stop": ["x", ""]}}, {"sampling.stop[1]"}),
    ("stop of 10 KB", {"sampling": {"stop": ["x" * 10_000]}}, {"sampling.stop[0]"}),
    ("65 stop ids", {"sampling": {"stop_token_ids": [1] * 65}}, {"sampling.stop_token_ids"}),
    ("stop id", {"sampling": {"stop_token_ids": [49_152]}}, {"sampling.stop_token_ids"}),
    (
        "too many biases",
        {"sampling": {"logit_bias": dict.fromkeys(range(1025), 1.0)}},
        {"sampling.logit_bias"},
    ),
    ("bias NaN", {"sampling": {"logit_bias": {3: float("nan")}}}, {"sampling.logit_bias[3]"}),
    ("bias of no token", {"sampling": {"logit_bias": {49_152: 1}}}, {"sampling.logit_bias[49152]"}),
    ("request_id with a newline", {"request_id": "a\nb"}, {"request_id"}),
    ("request_id with ANSI", {"request_id": "\x1b[31m"}, {"request_id"}),
    ("request_id of 1 MB", {"request_id": "x" * 1_000_000}, {"request_id"}),
    ("unknown priority", {"priority": 9}, {"priority"}),
    ("forced length", {"benchmark_payload": b"\x08\x01"}, {"benchmark_payload"}),
    (
        "several at once",
        {"prompt": "", "temperature": 3.0, "sampling": {"top_p": 0.0}, "request_id": "/"},
        {"prompt", "sampling.temperature", "sampling.top_p", "request_id"},
    ),
    *(
        (f"{name} {value}", {"sampling": {name: value}}, {f"sampling.{name}"})
        for name, outside in {
            "temperature": (-0.1, 2.1),
            "top_p": (0.0, 1.01),
            "min_p": (-0.1, 1.1),
            "repetition_penalty": (0.0, 2.1),
            "presence_penalty": (-2.1, 2.1),
            "frequency_penalty": (-2.1, 2.1),
        }.items()
        for value in (*outside, float("nan"), float("inf"), float("-inf"))
    ),
]


@pytest.mark.parametrize(
    ("fields", "violated"), [case[1:] for case in BAD], ids=[case[0] for case in BAD]
)
async def test_a_bad_request_is_told_every_violation(
    client: Client, fields: dict[str, Any], violated: set[str]
) -> None:
    details = await client.failure(request(**fields))
    assert (details.code, details.reason) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "INVALID_REQUEST",
    )
    assert {violation.field for violation in details.violations} == violated
    assert all(violation.description for violation in details.violations)


async def test_refused_requests_are_counted_and_not_accepted(client: Client) -> None:
    before = (await client.queue()).counters
    await client.failure(request(max_tokens=0))
    after = (await client.queue()).counters
    assert (after.refused, after.accepted) == (before.refused + 1, before.accepted)


async def test_an_unknown_model_is_not_found(client: Client) -> None:
    details = await client.failure(request(model="gpt-17"))
    assert (details.code, details.reason) == (grpc.StatusCode.NOT_FOUND, "UNKNOWN_MODEL")


async def test_the_served_model_is_found_by_its_name(client: Client) -> None:
    model = (await client.info()).model
    assert (await client.generate(request(model=model, max_tokens=1))).finished


async def test_a_message_over_4_mib_is_refused(client: Client) -> None:
    details = await client.failure(request("x" * (5 * 1024 * 1024)))
    assert details.code is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize(
    ("method", "data"),
    [
        ("Generate", NOT_A_MESSAGE),
        ("Generate", BAD_UTF8),
        ("GetQueue", NOT_A_MESSAGE),
        ("GetServerInfo", NOT_A_MESSAGE),
    ],
)
async def test_corrupt_bytes_are_an_invalid_argument(
    client: Client, method: str, data: bytes
) -> None:
    kind = "unary_stream" if method == "Generate" else "unary_unary"
    call = getattr(client.connection, kind)(f"/{GATEWAY}/{method}")(data)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await (call.read() if method == "Generate" else call)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert errors.decode(caught.value).reason == "INVALID_REQUEST"
