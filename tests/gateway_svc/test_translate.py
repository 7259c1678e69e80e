from __future__ import annotations

import dataclasses
import math
from typing import Any

import hypothesis.strategies as st
import pytest
from google.protobuf.message import DecodeError
from hypothesis import HealthCheck, given, settings

from gateway_svc import translate
from gateway_svc.live import LiveRequest, Moments
from gateway_svc.scheduling.job import Job, Priority
from gateway_svc.translate import ParsedRequest
from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2
from ssjf.gateway.v1 import gateway_pb2
from ssjf.predictor.v1 import predictor_pb2
from ssjf.wire import request_id
from ssjf.wire.errors import InvalidRequest
from tests.gateway_svc.requests import ASSISTANT, MODEL, SYSTEM, USER, asked, chat, sampled


def parse(request: gateway_pb2.GenerateRequest, default_max_tokens: int = 100) -> ParsedRequest:
    return translate.parse(request, MODEL, default_max_tokens=default_max_tokens, benchmark=True)


def wrong(request: gateway_pb2.GenerateRequest, prompt_tokens: int) -> list[str]:
    """Fields that `fit` finds at fault."""
    with pytest.raises(InvalidRequest) as invalid:
        translate.fit(parse(request), prompt_tokens, MODEL)
    return [violation.field for violation in invalid.value.violations]


# Parsing ---------------------------------------------------------------------


def test_absent_fields_take_their_documented_defaults() -> None:
    parsed = parse(asked())
    sampling = parsed.sampling
    values = {field.name: value for field, value in sampling.ListFields()}
    seed = values.pop("seed")
    assert 0 <= seed < 2**64
    assert values == {
        "max_tokens": 100,
        "min_tokens": 0,
        "temperature": pytest.approx(0.7),
        "top_p": pytest.approx(0.95),
        "top_k": 0,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "presence_penalty": 0.0,
        "frequency_penalty": 0.0,
        "ignore_eos": False,
    }
    assert not sampling.HasField("logprobs")
    assert (parsed.priority, parsed.max_tokens_given) == (Priority.STANDARD, False)


@pytest.mark.parametrize(
    "field",
    [
        *("temperature", "min_p", "top_k", "presence_penalty", "frequency_penalty"),
        *("seed", "min_tokens", "logprobs", "ignore_eos"),
    ],
)
def test_zero_is_a_value_and_not_unset(field: str) -> None:
    sampling = parse(sampled(**{field: 0})).sampling
    assert sampling.HasField(field)  # type: ignore[arg-type]  # its type lists the names
    assert getattr(sampling, field) == 0


def test_what_the_client_chose_is_kept() -> None:
    given_ = sampling_pb2.SamplingParams(
        max_tokens=7, min_tokens=3, temperature=1.5, top_p=0.5, top_k=4, min_p=0.25, seed=11,
        repetition_penalty=1.25, presence_penalty=-1.0, frequency_penalty=1.0, ignore_eos=True,
        stop=["a", "b"], stop_token_ids=[5], logit_bias={3: -2.0}, logprobs=2,
    )  # fmt: skip
    assert len(given_.ListFields()) == len(given_.DESCRIPTOR.fields)
    parsed = parse(asked(sampling=given_))
    assert parsed.sampling == given_
    assert parsed.max_tokens_given


def test_seeds_that_are_drawn_differ() -> None:
    assert len({parse(asked()).sampling.seed for _ in range(20)}) == 20


def test_a_minimum_above_the_default_raises_the_default() -> None:
    assert parse(sampled(min_tokens=300)).sampling.max_tokens == 300


def test_an_id_is_drawn_where_the_client_has_none() -> None:
    drawn = {parse(asked()).request_id for _ in range(20)}
    assert len(drawn) == 20
    assert all(request_id.is_valid(name) for name in drawn)
    assert parse(asked(request_id="mine")).request_id == "mine"


@pytest.mark.parametrize("number", gateway_pb2.PriorityClass.values())
def test_every_priority_class_has_its_meaning(number: gateway_pb2.PriorityClass.ValueType) -> None:
    name = gateway_pb2.PriorityClass.Name(number).removeprefix("PRIORITY_CLASS_")
    assert parse(asked(priority=number)).priority.name in (name, "STANDARD")
    if number:
        assert translate.PRIORITY_CLASSES[parse(asked(priority=number)).priority] == number


def test_a_parsed_request_cannot_be_changed() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        parse(asked()).request_id = "other"  # type: ignore[misc]


# Fitting to the context ------------------------------------------------------


def test_the_default_shrinks_to_what_the_context_leaves() -> None:
    assert translate.fit(parse(asked()), 500, MODEL).max_tokens == 12
    assert translate.fit(parse(asked()), 10, MODEL).max_tokens == 100


def test_a_prompt_may_leave_room_for_one_token_and_not_less() -> None:
    assert translate.fit(parse(asked()), 511, MODEL).max_tokens == 1
    assert wrong(asked(), 512) == ["prompt"]


def test_a_limit_that_the_client_chose_does_not_shrink() -> None:
    assert translate.fit(parse(sampled(max_tokens=12)), 500, MODEL).max_tokens == 12
    assert wrong(sampled(max_tokens=13), 500) == ["sampling.max_tokens"]


def test_a_minimum_that_the_context_does_not_leave_is_refused() -> None:
    assert translate.fit(parse(sampled(min_tokens=12)), 500, MODEL).min_tokens == 12
    assert wrong(sampled(min_tokens=13), 500) == ["sampling.min_tokens"]


@pytest.mark.parametrize("prompt_tokens", [0, 600])
def test_the_input_at_fault_is_named(prompt_tokens: int) -> None:
    assert wrong(asked(prompt="x"), prompt_tokens) == ["prompt"]
    assert wrong(asked(chat=chat((USER, "x"))), prompt_tokens) == ["chat"]


def test_fitting_leaves_the_parsed_request_alone() -> None:
    parsed = parse(asked())
    translate.fit(parsed, 500, MODEL)
    assert parsed.sampling.max_tokens == 100


# Messages to the other services ----------------------------------------------


def test_text_and_conversations_are_tokenised_and_ids_are_not() -> None:
    talk = chat((USER, "x"))
    assert translate.tokenize_request(parse(asked(prompt="x"))) == engine_pb2.TokenizeRequest(
        prompt="x"
    )
    assert translate.tokenize_request(parse(asked(chat=talk))) == engine_pb2.TokenizeRequest(
        chat=talk
    )
    ids = parse(asked(token_ids=prompt_pb2.TokenIds(ids=[3, 4])))
    assert translate.tokenize_request(ids) is None
    assert translate.token_ids(ids) == (3, 4)
    with pytest.raises(TypeError):
        translate.token_ids(parse(asked(prompt="x")))


def test_the_predictor_is_asked_about_the_last_message_and_the_turns_before() -> None:
    talk = chat((SYSTEM, "s"), (USER, "u"), (ASSISTANT, "a"), (USER, "last"))
    item = translate.predict_item(parse(asked(chat=talk)), "tiny")
    turns = [(predictor_pb2.TURN_ROLE_SYSTEM, "s"), (predictor_pb2.TURN_ROLE_USER, "u")]
    turns.append((predictor_pb2.TURN_ROLE_ASSISTANT, "a"))
    assert item == predictor_pb2.PredictItem(
        prompt="last",
        turns=[predictor_pb2.Turn(role=role, content=content) for role, content in turns],
        model="tiny",
        max_tokens=100,
    )


def test_nothing_is_asked_about_raw_token_ids() -> None:
    ids = parse(asked(token_ids=prompt_pb2.TokenIds(ids=[3])))
    assert translate.predict_item(ids, "tiny") is None


def test_only_a_finished_request_has_a_last_event() -> None:
    job = Job(1, "r1", 0.0, 1, 1, 1.0)
    live = LiveRequest(job, engine_pb2.Sequence(), Moments(0.0), from_model=False)
    with pytest.raises(ValueError, match="has not finished"):
        translate.finished(live, 1.0)


def test_what_ended_an_answer_is_told_only_where_it_did() -> None:
    job = Job(1, "r1", 0.0, 1, 1, 1.0)
    live = LiveRequest(job, engine_pb2.Sequence(), Moments(0.0), from_model=False)
    live.finish(engine_pb2.SequenceFinished(stop_string="", output_tokens=1))
    finished = translate.finished(live, 1.0).finished
    assert finished.HasField("stop_string")
    assert not finished.HasField("stop_token_id")


# Anything at all -------------------------------------------------------------

FLOATS = st.floats(width=32) | st.sampled_from([0.0, 1.0, 2.0, -2.0])
UINTS = st.integers(0, 2**32 - 1) | st.integers(0, 20)
TEXT = st.text(max_size=20)


def messages(kind: type[Any], **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: kind(**values))


SAMPLING = messages(
    sampling_pb2.SamplingParams,
    **dict.fromkeys(["max_tokens", "min_tokens", "top_k", "logprobs"], UINTS),
    **dict.fromkeys(["temperature", "top_p", "min_p", "repetition_penalty"], FLOATS),
    **dict.fromkeys(["presence_penalty", "frequency_penalty"], FLOATS),
    seed=st.integers(0, 2**64 - 1),
    ignore_eos=st.booleans(),
    stop=st.lists(TEXT, max_size=20),
    stop_token_ids=st.lists(UINTS, max_size=70),
    logit_bias=st.dictionaries(UINTS, FLOATS, max_size=5),
)
MESSAGES = messages(prompt_pb2.ChatMessage, role=st.integers(0, 5), content=TEXT)
INPUT: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.just({}),
    st.fixed_dictionaries({"prompt": TEXT}),
    st.fixed_dictionaries({"chat": messages(prompt_pb2.Chat, messages=st.lists(MESSAGES))}),
    st.fixed_dictionaries({"token_ids": messages(prompt_pb2.TokenIds, ids=st.lists(UINTS))}),
)


@st.composite
def any_request(draw: st.DrawFn) -> gateway_pb2.GenerateRequest:
    fields = draw(
        st.fixed_dictionaries(
            {},
            optional={
                "sampling": SAMPLING,
                "model": TEXT,
                "priority": st.integers(0, 6),
                "request_id": TEXT,
                "benchmark_payload": st.binary(max_size=70),
            },
        )
    )
    return gateway_pb2.GenerateRequest(**draw(INPUT), **fields)


def parses_or_is_refused(request: gateway_pb2.GenerateRequest) -> None:
    try:
        parsed = parse(request)
    except InvalidRequest:
        return
    sampling = parsed.sampling
    numbers = [value for _, value in sampling.ListFields() if isinstance(value, int | float)]
    assert all(map(math.isfinite, numbers))
    assert sampling.min_tokens <= sampling.max_tokens
    assert 1 <= sampling.max_tokens < MODEL.max_request_tokens
    assert 0 <= sampling.temperature <= 2
    assert 0 < sampling.top_p <= 1
    assert request_id.is_valid(parsed.request_id)
    translate.tokenize_request(parsed)
    translate.predict_item(parsed, "tiny")
    job = Job(1, parsed.request_id, 0.0, prompt_tokens=1, max_tokens=1, predicted_tokens=1.0)
    translate.sequence(job, parsed, [1], translate.fit(parsed, 1, MODEL))


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(any_request())
def test_any_request_parses_into_a_valid_one_or_is_refused(
    request_: gateway_pb2.GenerateRequest,
) -> None:
    parses_or_is_refused(request_)


@settings(max_examples=250, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(any_request(), st.data())
def test_damaged_bytes_parse_into_a_valid_request_or_are_refused(
    request_: gateway_pb2.GenerateRequest, data: st.DataObject
) -> None:
    wire = bytearray(request_.SerializeToString())
    for _ in range(data.draw(st.integers(0, 3)) if wire else 0):
        wire[data.draw(st.integers(0, len(wire) - 1))] = data.draw(st.integers(0, 255))
    try:
        damaged = gateway_pb2.GenerateRequest.FromString(bytes(wire))
    except DecodeError:
        return  # the boundary's business
    parses_or_is_refused(damaged)
