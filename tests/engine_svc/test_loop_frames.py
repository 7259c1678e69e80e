from __future__ import annotations

from dataclasses import fields
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_svc.batching_mode import BatchingMode
from engine_svc.loop_frames import FrameReader, frame
from engine_svc.messages import (
    Cancel,
    Detach,
    Drain,
    Failed,
    Finished,
    FirstToken,
    Ready,
    Report,
    Start,
    Stop,
    TokenLogprobs,
)
from engine_svc.params import SamplingParams
from engine_svc.scheduler import Capacity
from engine_svc.sequence import Ending, FailureCode, FinishReason, Sequence

REPORT = Report(
    step=4,
    step_ms=2.5,
    sequence_ids=(7, 2**63),
    token_ids=(5, 77),
    indices=(0, 3),
    logprobs={7: TokenLogprobs(float("-inf"), (77, 9), (-0.5, -1.0))},
    first=(FirstToken(7, 2, 1.5),),
    finished=(Finished(1, Ending(FinishReason.STOP, stop_string="ä\0"), 5, 4, 10.0, 20.0, 2),),
    failed=(Failed(2, FailureCode.NUMERIC, "NaN", 6),),
    capacity=Capacity(3, 160, 1),
    batch_id=9,
    drained=True,
)
PARAMS = SamplingParams(
    max_tokens=9,
    temperature=0.5,
    seed=2**64 - 1,
    stop=("a", "b"),
    stop_token_ids=frozenset({3}),
    logit_bias={4: -1.5},
    logprobs=0,
)


@pytest.mark.parametrize(
    "value",
    [
        *(REPORT, Report(), Cancel((1, 2)), Cancel(()), Detach(), Drain(for_good=True), Stop()),
        *(BatchingMode.DYNAMIC, "text", 3),
        Ready("llama", 49_152, (2,), 135_000_000, "float32", "cpu", 8, 2048, 16_384, 16),
    ],
    ids=lambda value: type(value).__name__,
)
def test_what_crosses_arrives_as_it_was(value: Any) -> None:
    assert FrameReader().feed(frame("kind", value)) == [("kind", value)]


def test_a_sequence_arrives_as_it_was_asked_for() -> None:
    sent = Sequence(
        3, (1, 2), PARAMS, "r", 5, cache_salt="tenant", kv_reservation_tokens=7, output=[1]
    )
    ((start,),) = FrameReader().feed(
        frame(Start(2, (sent,), (Failed(4, FailureCode.INVALID, "no"),)))
    )
    (sequence,) = start.sequences
    asked = {
        field.name: getattr(sent, field.name)
        for field in fields(Sequence)
        if field.name != "output"
    }
    assert {name: getattr(sequence, name) for name in asked} == asked
    assert sequence.output == []
    assert (start.batch_id, start.refused) == (2, (Failed(4, FailureCode.INVALID, "no"),))


@given(st.lists(st.integers(1, 40), max_size=30))
def test_frames_are_found_however_a_pipe_cuts_them(sizes: list[int]) -> None:
    sent = b"".join(frame("report", step, Report(step=step)) for step in range(5))
    reader = FrameReader()
    found = []
    for size in sizes:
        found += reader.feed(sent[:size])
        sent = sent[size:]
    found += reader.feed(sent)
    assert found == [("report", step, Report(step=step)) for step in range(5)]


def test_what_is_not_listed_does_not_cross() -> None:
    with pytest.raises(ValueError, match="unmarshallable"):
        frame(object())
