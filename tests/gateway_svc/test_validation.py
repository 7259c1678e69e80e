from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import pytest

from gateway_svc import limits, validation
from ssjf.engine.v1 import prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire.errors import InvalidRequest
from tests.gateway_svc.requests import ASSISTANT, MODEL, SYSTEM, USER, asked, chat, sampled

MIB = 1024 * 1024


def fields(
    request: gateway_pb2.GenerateRequest, *, benchmark: bool = False, model: Any = MODEL
) -> list[str]:
    """The fields of the violations, in their order; empty where there is none."""
    try:
        validation.check(request, model, benchmark=benchmark)
    except InvalidRequest as invalid:
        return [violation.field for violation in invalid.violations]
    return []


def ids(*numbers: int) -> prompt_pb2.TokenIds:
    return prompt_pb2.TokenIds(ids=numbers)


# Input -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_",
    [
        asked(prompt="x"),
        asked(prompt="x" * MIB),
        asked(prompt="\x00\u202e<|im_end|>"),
        asked(chat=chat((USER, "x"))),
        asked(chat=chat((SYSTEM, ""), (USER, "x"), (ASSISTANT, ""), (USER, "y"))),
        asked(chat=chat(*[(USER, "x")] * limits.MAX_CHAT_MESSAGES)),
        asked(token_ids=ids(0, 999)),
        asked(token_ids=ids(*[1] * 511)),
    ],
    ids=lambda request: str(request.WhichOneof("input")),
)
def test_good_input_is_accepted(request_: gateway_pb2.GenerateRequest) -> None:
    assert fields(request_) == []


@pytest.mark.parametrize(
    ("request_", "wrong"),
    [
        (gateway_pb2.GenerateRequest(), ["input"]),
        (asked(prompt=""), ["prompt"]),
        (asked(prompt="x" * (MIB + 1)), ["prompt"]),
        (asked(prompt="é" * (MIB // 2) + "x"), ["prompt"]),
        (asked(chat=chat()), ["chat.messages"]),
        (asked(chat=chat(*[(USER, "x")] * 1025)), ["chat.messages"]),
        (asked(chat=chat((USER, ""))), ["chat"]),
        (asked(chat=chat((USER, "x" * MIB), (USER, "x"))), ["chat"]),
        (asked(chat=chat((0, "x"), (USER, "x"))), ["chat.messages[0].role"]),
        (asked(chat=chat((9, "x"), (USER, "x"))), ["chat.messages[0].role"]),
        (asked(chat=chat((USER, "x"), (SYSTEM, "x"), (USER, "x"))), ["chat.messages[1].role"]),
        (asked(chat=chat((USER, "x"), (ASSISTANT, "x"))), ["chat.messages[1].role"]),
        (asked(chat=chat((SYSTEM, "x"))), ["chat.messages[0].role"]),
        (asked(token_ids=ids()), ["token_ids.ids"]),
        (asked(token_ids=ids(0, 1000)), ["token_ids.ids"]),
        (asked(token_ids=ids(2**32 - 1)), ["token_ids.ids"]),
        (asked(token_ids=ids(*[1] * 512)), ["token_ids.ids"]),
    ],
    ids=lambda value: str(value) if isinstance(value, list) else "",
)
def test_bad_input_is_refused(request_: gateway_pb2.GenerateRequest, wrong: list[str]) -> None:
    assert fields(request_) == wrong


# Sampling --------------------------------------------------------------------

BOUNDS: dict[str, tuple[float, float]] = {
    "temperature": (0.0, 2.0),
    "min_p": (0.0, 1.0),
    "presence_penalty": (-2.0, 2.0),
    "frequency_penalty": (-2.0, 2.0),
    "logprobs": (0, 20),
    "max_tokens": (1, 511),
    "min_tokens": (0, 511),
    "top_k": (0, 1000),
}


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, bound) for field, bounds in BOUNDS.items() for bound in bounds),
        *((field, value) for field in ("top_p",) for value in (1e-6, 1.0)),
        *((field, value) for field in ("repetition_penalty",) for value in (1e-6, 2.0)),
        *(("seed", value) for value in (0, 2**64 - 1)),
        *(("ignore_eos", value) for value in (False, True)),
        ("stop", ["x"] * 16),
        ("stop", ["x" * 256, "é" * 128, "\x00"]),
        ("stop_token_ids", [0, 999] * 32),
        ("logit_bias", {0: -100.0, 999: 100.0}),
        ("logit_bias", dict.fromkeys(range(1000), 1.0)),
    ],
)
def test_a_value_at_its_bound_is_accepted(field: str, value: Any) -> None:
    assert fields(sampled(**{field: value})) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            (field, value)
            for field in (
                *("temperature", "top_p", "min_p", "repetition_penalty"),
                *("presence_penalty", "frequency_penalty"),
            )
            for value in (math.nan, math.inf, -math.inf, 2.01, -2.01)
        ),
        ("temperature", -0.01),
        ("top_p", 0.0),
        ("top_p", 1.01),
        ("min_p", 1.01),
        ("min_p", -0.01),
        ("repetition_penalty", 0.0),
        ("logprobs", 21),
        ("logprobs", 1_000_000),
        ("max_tokens", 0),
        ("max_tokens", 512),
        ("max_tokens", 2**32 - 1),
        ("min_tokens", 512),
        ("min_tokens", 2**32 - 1),
        ("top_k", 1001),
        ("stop", ["x"] * 17),
        ("stop_token_ids", [1] * 65),
        ("stop_token_ids", [1, 1000]),
        ("logit_bias", dict.fromkeys(range(1025), 1.0)),
    ],
)
def test_a_value_beyond_its_bound_is_refused(field: str, value: Any) -> None:
    assert fields(sampled(**{field: value})) == [f"sampling.{field}"]


@pytest.mark.parametrize("stop", ["", "x" * 257, "é" * 129, "x" * 10_240])
def test_a_stop_string_of_a_wrong_size_is_named_by_its_place(stop: str) -> None:
    assert fields(sampled(stop=["good", stop])) == ["sampling.stop[1]"]


@pytest.mark.parametrize("bias", [math.nan, math.inf, -100.1, 100.1])
def test_a_bias_out_of_range_is_named_by_its_token(bias: float) -> None:
    assert fields(sampled(logit_bias={7: bias})) == ["sampling.logit_bias[7]"]


def test_a_bias_of_a_token_beyond_the_vocabulary_is_named() -> None:
    assert fields(sampled(logit_bias={1000: 1.0})) == ["sampling.logit_bias[1000]"]


def test_more_than_max_tokens_cannot_be_the_minimum() -> None:
    assert fields(sampled(min_tokens=5, max_tokens=5)) == []
    assert fields(sampled(min_tokens=6, max_tokens=5)) == ["sampling.min_tokens"]


def test_the_kv_cache_bounds_requests_where_it_is_smaller_than_the_context() -> None:
    small = replace(MODEL, kv_tokens=100)
    assert fields(sampled(max_tokens=99), model=small) == []
    assert fields(sampled(max_tokens=100), model=small) == ["sampling.max_tokens"]
    assert fields(asked(token_ids=ids(*[1] * 100)), model=small) == ["token_ids.ids"]


# The rest --------------------------------------------------------------------


@pytest.mark.parametrize("request_id", ["", "a", "A-z_0.9:x", "x" * 128])
def test_a_good_request_id_is_accepted(request_id: str) -> None:
    assert fields(asked(request_id=request_id)) == []


@pytest.mark.parametrize(
    "request_id", [" ", "a\n", "a\x1b[31m", "é", "x" * 129, "x" * MIB, "a/b", "a\x00"]
)
def test_a_bad_request_id_is_refused_and_not_repeated(request_id: str) -> None:
    with pytest.raises(InvalidRequest) as invalid:
        validation.check(asked(request_id=request_id), MODEL, benchmark=False)
    (violation,) = invalid.value.violations
    assert violation.field == "request_id"
    assert len(violation.description) < 100


@pytest.mark.parametrize("priority", [-1, 4, 2**31 - 1])
def test_a_priority_that_does_not_exist_is_refused(priority: int) -> None:
    request = asked()
    request.priority = gateway_pb2.PriorityClass.ValueType(priority)
    assert fields(request) == ["priority"]


def test_the_benchmark_payload_is_for_benchmarks_and_small() -> None:
    assert fields(asked(benchmark_payload=b"x")) == ["benchmark_payload"]
    assert fields(asked(benchmark_payload=b"x" * 64), benchmark=True) == []
    assert fields(asked(benchmark_payload=b"x" * 65), benchmark=True) == ["benchmark_payload"]


def test_every_violation_is_listed() -> None:
    request = sampled(temperature=-1.0, top_p=0.0, max_tokens=0, stop=[""], logit_bias={5000: 1e9})
    request.ClearField("prompt")
    request.request_id = "a b"
    request.benchmark_payload = b"x"
    assert fields(request) == [
        "input",
        "sampling.temperature",
        "sampling.top_p",
        "sampling.max_tokens",
        "sampling.stop[0]",
        "sampling.logit_bias[5000]",
        "sampling.logit_bias[5000]",
        "request_id",
        "benchmark_payload",
    ]


def test_a_violation_says_what_would_be_right() -> None:
    with pytest.raises(InvalidRequest, match=r"sampling.top_p: must be in \(0, 1\], is 0"):
        validation.check(sampled(top_p=0.0), MODEL, benchmark=False)


def test_every_ranged_field_is_one_of_the_contract() -> None:
    assert set(limits.SAMPLING) <= set(sampling_pb2.SamplingParams.DESCRIPTOR.fields_by_name)
