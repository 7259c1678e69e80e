from __future__ import annotations

from typing import Any

import pytest

from engine_svc import translate
from engine_svc.answers import Answered
from engine_svc.batching_mode import BatchingMode
from engine_svc.messages import Failed, Finished, Report, TokenLogprobs
from engine_svc.scheduler import Capacity
from engine_svc.sequence import Ending, FailureCode, FinishReason
from engine_svc.tokenizer import Message
from engine_svc.translate import Bounds, Refused
from ssjf.engine.v1 import engine_pb2, prompt_pb2, sampling_pb2
from ssjf.wire.errors import InvalidRequest

from .gateway_side import sequence

NAN, INFINITY = float("nan"), float("inf")
BOUNDS = Bounds(vocabulary_size=100, max_context_tokens=20, benchmark=False)
BENCHMARK = Bounds(vocabulary_size=100, max_context_tokens=20, benchmark=True)


def payload(forced: int) -> bytes:
    return engine_pb2.BenchmarkPayload(forced_output_tokens=forced).SerializeToString()


def test_every_sampling_field_arrives() -> None:
    sent: dict[str, Any] = {
        "max_tokens": 9,
        "min_tokens": 2,
        "temperature": 0.5,
        "top_p": 0.25,
        "top_k": 7,
        "min_p": 0.125,
        "repetition_penalty": 1.5,
        "presence_penalty": -0.5,
        "frequency_penalty": 0.75,
        "seed": 2**64 - 1,
        "ignore_eos": True,
        "logprobs": 0,
    }
    message = sampling_pb2.SamplingParams(
        **sent, stop=["a", "b"], stop_token_ids=[3, 3], logit_bias={4: -1.5}
    )
    found = translate.sampling(message)
    assert {name: getattr(found, name) for name in sent} == sent
    assert found.stop == ("a", "b")
    assert found.stop_token_ids == {3}
    assert found.logit_bias == {4: -1.5}


def test_zero_is_a_value_and_absence_takes_the_default() -> None:
    zero = translate.sampling(sampling_pb2.SamplingParams(temperature=0.0))
    absent = translate.sampling(sampling_pb2.SamplingParams())
    assert zero.temperature == 0.0
    assert (absent.temperature, absent.top_p, absent.max_tokens) == (0.7, 0.95, 1024)
    assert (absent.repetition_penalty, absent.logprobs) == (1.0, None)


def test_absent_seeds_are_drawn_apart() -> None:
    drawn = {translate.sampling(sampling_pb2.SamplingParams()).seed for _ in range(20)}
    assert len(drawn) == 20


@pytest.mark.parametrize(
    ("sampling", "complaint"),
    [
        ({"max_tokens": 0}, "max_tokens"),
        ({"min_tokens": 9}, "min_tokens"),
        ({"temperature": NAN}, "temperature"),
        ({"temperature": INFINITY}, "temperature"),
        ({"temperature": -0.1}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_p": 1.01}, "top_p"),
        ({"min_p": NAN}, "min_p"),
        ({"repetition_penalty": 0.0}, "repetition_penalty"),
        ({"presence_penalty": 2.5}, "presence_penalty"),
        ({"frequency_penalty": -INFINITY}, "frequency_penalty"),
        ({"stop": [""]}, "stop"),
        ({"stop_token_ids": [100]}, "vocabulary"),
        ({"logit_bias": {100: 1.0}}, "vocabulary"),
        ({"logit_bias": {1: NAN}}, "logit_bias"),
        ({"logprobs": 21}, "logprobs"),
        ({"max_tokens": 18}, "context"),
    ],
    ids=str,
)
def test_sampling_that_could_harm_is_refused(sampling: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        translate.sequence(sequence(1, **sampling), BOUNDS)


@pytest.mark.parametrize(("prompt", "complaint"), [([], "no tokens"), ([5, 100], "vocabulary")])
def test_a_prompt_that_could_harm_is_refused(prompt: list[int], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        translate.sequence(sequence(1, prompt), BOUNDS)


def test_prompt_and_answer_may_fill_the_context() -> None:
    found = translate.sequence(sequence(1, [5] * 12, max_tokens=8), BOUNDS)
    assert found.reserved_tokens == 20


def test_a_forced_length_is_taken_in_benchmarks() -> None:
    assert translate.sequence(sequence(1, payload=payload(8)), BENCHMARK).forced_tokens == 8


@pytest.mark.parametrize(
    ("bounds", "sent"),
    [
        (BOUNDS, payload(8)),
        (BENCHMARK, payload(9)),
        (BENCHMARK, payload(0) + b"\x08\x00"),
        (BENCHMARK, b"\xff"),
    ],
    ids=["no benchmark", "above max_tokens", "zero", "no message"],
)
def test_a_forced_length_is_refused_otherwise(bounds: Bounds, sent: bytes) -> None:
    with pytest.raises(Refused):
        translate.sequence(sequence(1, payload=sent), bounds)


def test_one_bad_sequence_of_a_batch_is_refused_alone() -> None:
    batch = engine_pb2.ScheduledBatch(
        batch_id=3, sequences=[sequence(1), sequence(2, []), sequence(3)]
    )
    (start,) = translate.starts(batch, BOUNDS, after=2, part_tokens=100)
    assert start.batch_id == 3
    assert [s.sequence_id for s in start.sequences] == [1, 3]
    assert start.refused == (Failed(2, FailureCode.INVALID, "the prompt has no tokens"),)


@pytest.mark.parametrize(
    ("part_tokens", "parts"),
    [
        (1, [(2, [1]), (2, [2]), (2, [3]), (3, [4])]),
        (4, [(2, [1, 2]), (3, [3, 4])]),
        (5, [(2, [1, 2]), (3, [3, 4])]),
        (7, [(2, [1, 2, 3]), (3, [4])]),
        (10, [(3, [1, 2, 3, 4])]),
    ],
)
def test_only_the_last_part_of_a_batch_has_its_number(
    part_tokens: int, parts: list[tuple[int, list[int]]]
) -> None:
    batch = engine_pb2.ScheduledBatch(
        batch_id=3, sequences=[sequence(number, (5, 6, 7)) for number in range(1, 5)]
    )
    found = translate.starts(batch, BOUNDS, after=2, part_tokens=part_tokens)
    assert [(start.batch_id, [s.sequence_id for s in start.sequences]) for start in found] == parts


def test_a_batch_of_nothing_still_has_its_number() -> None:
    (start,) = translate.starts(
        engine_pb2.ScheduledBatch(batch_id=3), BOUNDS, after=2, part_tokens=1
    )
    assert (start.batch_id, start.sequences, start.refused) == (3, (), ())


def test_a_report_becomes_a_step_then_capacity_then_drained() -> None:
    report = Report(
        step=4,
        step_ms=2.5,
        sequence_ids=(7, 1),
        token_ids=(5, 77),
        indices=(0, 3),
        logprobs={1: TokenLogprobs(-0.5, (77, 9), (-0.5, -1.0))},
        finished=(Finished(1, Ending(FinishReason.STOP, stop_string="x"), 5, 4, 10.0, 20.0, 2),),
        failed=(Failed(2, FailureCode.NUMERIC, "NaN", 6),),
        capacity=Capacity(3, 160, 1),
        batch_id=9,
        drained=True,
    )
    step, capacity, drained = translate.responses([Answered(report, ["", "hi"])])
    assert step.step == engine_pb2.StepOutput(
        step=4,
        step_ms=2.5,
        sequence_ids=[7, 1],
        token_ids=[5, 77],
        indices=[0, 3],
        texts=["", "hi"],
        logprob_rows=[1],
        logprobs=[
            sampling_pb2.TokenLogprobs(
                logprob=-0.5, top_token_ids=[77, 9], top_logprobs=[-0.5, -1.0]
            )
        ],
        finished=[
            engine_pb2.SequenceFinished(
                sequence_id=1,
                reason=sampling_pb2.FINISH_REASON_STOP,
                stop_string="x",
                prompt_tokens=5,
                cached_prompt_tokens=2,
                output_tokens=4,
                prefill_ms=10.0,
                decode_ms=20.0,
            )
        ],
        errors=[
            engine_pb2.SequenceError(
                sequence_id=2,
                code=engine_pb2.SEQUENCE_ERROR_CODE_NUMERIC,
                message="NaN",
                output_tokens=6,
            )
        ],
    )
    assert capacity.capacity == engine_pb2.Capacity(
        free_sequences=3, free_kv_tokens=160, running_sequences=1, batch_id=9
    )
    assert drained.WhichOneof("message") == "drained"


def test_a_report_of_capacity_alone_is_no_step() -> None:
    (only,) = translate.responses([Answered(Report(capacity=Capacity(3, 160, 1)), [])])
    assert only.WhichOneof("message") == "capacity"


def test_reports_that_wait_together_become_one_step_and_the_newest_capacity() -> None:
    first = Report(
        step=4,
        step_ms=2.0,
        sequence_ids=(7, 1),
        token_ids=(5, 77),
        indices=(0, 3),
        finished=(Finished(1, Ending(FinishReason.LENGTH), 5, 4, 10.0, 20.0),),
        capacity=Capacity(3, 160, 1),
        batch_id=9,
    )
    refused = Report(failed=(Failed(2, FailureCode.INVALID, "no"),))
    second = Report(
        step=5,
        step_ms=3.0,
        sequence_ids=(7,),
        token_ids=(6,),
        indices=(1,),
        logprobs={7: TokenLogprobs(-0.5, (), ())},
        capacity=Capacity(4, 320, 0),
        batch_id=10,
        drained=True,
    )
    answered = [Answered(first, ["", "hi"]), Answered(refused, []), Answered(second, ["!"])]
    message, capacity, drained = translate.responses(answered)
    step = message.step
    assert (step.step, step.step_ms) == (5, 5.0)
    assert [*zip(step.sequence_ids, step.indices, step.token_ids, step.texts, strict=True)] == [
        (7, 0, 5, ""),
        (1, 3, 77, "hi"),
        (7, 1, 6, "!"),
    ]
    assert (list(step.logprob_rows), len(step.logprobs)) == ([2], 1)
    assert [each.sequence_id for each in step.finished] == [1]
    assert [each.sequence_id for each in step.errors] == [2]
    assert (capacity.capacity.batch_id, capacity.capacity.free_sequences) == (10, 4)
    assert drained.WhichOneof("message") == "drained"


def test_salt_and_reservation_arrive() -> None:
    message = sequence(1, max_tokens=8)
    message.cache_salt, message.kv_reservation_tokens = "tenant", 5
    found = translate.sequence(message, BOUNDS)
    assert (found.cache_salt, found.kv_reservation_tokens) == ("tenant", 5)
    assert translate.sequence(sequence(1), BOUNDS).kv_reservation_tokens is None


def test_a_salt_that_is_too_long_is_refused() -> None:
    message = sequence(1)
    message.cache_salt = "ä" * 129
    with pytest.raises(Refused, match="cache_salt"):
        translate.sequence(message, BOUNDS)


def test_every_batching_mode_has_its_wire_value() -> None:
    named = {engine_pb2.BatchingMode.Name(number): mode for number, mode in translate.MODES.items()}
    assert named == {f"BATCHING_MODE_{mode.name}": mode for mode in BatchingMode}


def test_every_reason_and_every_failure_has_its_wire_value() -> None:
    assert {r.name for r in FinishReason} == {
        sampling_pb2.FinishReason.Name(v).removeprefix("FINISH_REASON_")
        for v in translate.REASONS.values()
    }
    assert {c.name for c in FailureCode} == {
        engine_pb2.SequenceErrorCode.Name(v).removeprefix("SEQUENCE_ERROR_CODE_")
        for v in translate.CODES.values()
    }


def test_a_prompt_is_one_user_message() -> None:
    request = engine_pb2.TokenizeRequest(prompt="Hi")
    assert translate.messages(request) == (Message("user", "Hi"),)


@pytest.mark.parametrize(
    "request_",
    [
        engine_pb2.TokenizeRequest(),
        engine_pb2.TokenizeRequest(prompt=""),
        engine_pb2.TokenizeRequest(chat=prompt_pb2.Chat()),
        engine_pb2.TokenizeRequest(
            chat=prompt_pb2.Chat(messages=[prompt_pb2.ChatMessage(content="x")])
        ),
        engine_pb2.TokenizeRequest(prompt="x" * (translate.MAX_PROMPT_BYTES + 1)),
    ],
    ids=["nothing", "empty prompt", "empty chat", "no role", "too long"],
)
def test_what_cannot_be_tokenised_is_refused(request_: engine_pb2.TokenizeRequest) -> None:
    with pytest.raises(InvalidRequest):
        translate.messages(request_)
