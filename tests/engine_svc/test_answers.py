"""Text of the loop's reports, in a vocabulary whose tokens are bytes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_svc import token_texts
from engine_svc.answers import Answered, Answers
from engine_svc.messages import Failed, Finished, FirstToken, Report, Start
from engine_svc.sequence import Ending, FailureCode, FinishReason
from engine_svc.token_texts import TokenTexts

from .turns import make_sequence

EOS = 256
PIECES = [*(bytes([byte]) for byte in range(256)), b""]
LENGTH = Ending(FinishReason.LENGTH)


def letters(token_ids: Any) -> str:
    return bytes(each for each in token_ids if each != EOS).decode(errors="replace")


BYTES, CONTEXT = token_texts.of_bytes(PIECES), token_texts.of_decode(letters, 257)
both = pytest.mark.parametrize("texts", [BYTES, CONTEXT], ids=["bytes", "context"])


class Loop:
    """Gives each sequence the tokens that it is told, one a report."""

    def __init__(self, texts: TokenTexts, **sequences: dict[str, Any]) -> None:
        self.now_s = 0.0
        self.answers = Answers(texts, lambda: self.now_s)
        self.names = {name: number for number, name in enumerate(sequences, 1)}
        made = [
            make_sequence(self.names[name], **{"max_tokens": 99, **params})
            for name, params in sequences.items()
        ]
        self.answers.start(Start(1, tuple(made)))
        self.given = dict.fromkeys(self.names, 0)
        self.text = dict.fromkeys(self.names, "")

    def step(self, ends: Mapping[str, Ending] | None = None, **tokens: int) -> Answered:
        ids = tuple(self.names[name] for name in tokens)
        finished = [
            Finished(self.names[name], ending, 3, self.given[name] + 1, 1.0, 2.0)
            for name, ending in (ends or {}).items()
        ]
        report = Report(
            step=1,
            sequence_ids=ids,
            token_ids=tuple(tokens.values()),
            indices=tuple(self.given[name] for name in tokens),
            first=tuple(FirstToken(self.names[n], 2, 5.0) for n in tokens if not self.given[n]),
            finished=tuple(finished),
        )
        answered = self.answers.read(report)
        for name in tokens:
            self.given[name] += 1
        numbers = {number: name for name, number in self.names.items()}
        for number, text in zip(answered.report.sequence_ids, answered.texts, strict=True):
            self.text[numbers[number]] += text
        return answered

    def say(self, ending: Ending | None = None, **data: bytes) -> Answered:
        """A report a byte, the last one with the ending."""
        ((name, said),) = data.items()
        for byte in said[:-1]:
            self.step(None, **{name: byte})
        return self.step({name: ending} if ending else None, **{name: said[-1]})


@both
def test_each_row_gets_its_text(texts: TokenTexts) -> None:
    loop = Loop(texts, a={}, b={})
    answered = loop.step(a=ord("x"), b=ord("y"))
    assert (answered.texts, answered.report.sequence_ids) == (["x", "y"], (1, 2))
    assert answered.stopped == ()


@both
def test_a_character_of_several_tokens_comes_with_its_last_beside_others(
    texts: TokenTexts,
) -> None:
    loop = Loop(texts, a={}, b={})
    found = [loop.step(a=byte, b=ord("y")).texts for byte in "é!".encode()]
    assert found == [["", "y"], ["é", "y"], ["!", "y"]]


@both
def test_a_broken_character_comes_with_the_last_token(texts: TokenTexts) -> None:
    loop = Loop(texts, a={})
    loop.say(LENGTH, a=b"a\xe2\x82")
    assert loop.text["a"] == "a\N{REPLACEMENT CHARACTER}"


@both
def test_the_token_that_ends_an_answer_is_no_text(texts: TokenTexts) -> None:
    loop = Loop(texts, a={})
    loop.say(Ending(FinishReason.STOP, stop_token_id=ord("!")), a=b"ab!")
    assert loop.text["a"] == "ab"


@both
def test_a_stop_string_across_tokens_ends_the_answer_and_tells_who_still_runs(
    texts: TokenTexts,
) -> None:
    loop = Loop(texts, a={"stop": ("END",)}, b={})
    loop.now_s = 10.0
    loop.say(a=b"one EN")
    loop.now_s = 12.0
    answered = loop.step(a=ord("D"), b=ord("y"))
    assert loop.text["a"] == "one "
    assert answered.stopped == (1,)
    assert answered.report.finished == (
        Finished(1, Ending(FinishReason.STOP, stop_string="END"), 3, 7, 5.0, 2000.0, 2),
    )
    assert list(loop.answers.live) == [2]


@both
def test_what_comes_of_an_answer_after_its_stop_string_is_dropped(texts: TokenTexts) -> None:
    loop = Loop(texts, a={"stop": ("b",)}, b={})
    loop.say(a=b"ab")
    answered = loop.step({"a": LENGTH}, a=ord("c"), b=ord("y"))
    assert (answered.report.sequence_ids, answered.texts) == ((2,), ["y"])
    assert (answered.report.token_ids, answered.report.indices) == ((ord("y"),), (0,))
    assert answered.report.finished == ()


@both
def test_a_stop_string_completed_by_the_last_token_is_a_stop(texts: TokenTexts) -> None:
    loop = Loop(texts, a={"stop": ("bc",)})
    answered = loop.say(LENGTH, a=b"abc")
    assert loop.text["a"] == "a"
    (finished,) = answered.report.finished
    assert finished.ending == Ending(FinishReason.STOP, stop_string="bc")
    assert answered.stopped == ()


@both
def test_the_beginning_of_a_stop_string_is_sent_when_the_answer_ends(texts: TokenTexts) -> None:
    loop = Loop(texts, a={"stop": ("END",)})
    loop.say(a=b"xEN")
    loop.step({"a": Ending(FinishReason.EOS, stop_token_id=EOS)}, a=EOS)
    assert loop.text["a"] == "xEN"


@both
def test_a_stop_string_before_min_tokens_is_text(texts: TokenTexts) -> None:
    loop = Loop(texts, a={"stop": (".",), "min_tokens": 4})
    answered = loop.say(a=b"ab.cd.")
    assert loop.text["a"] == "ab.cd"
    assert answered.stopped == (1,)


@both
def test_an_answer_of_forced_length_does_not_stop(texts: TokenTexts) -> None:
    loop = Loop(texts, a={"stop": (".",), "forced_tokens": 3})
    loop.say(LENGTH, a=b"a.b")
    assert loop.text["a"] == "a.b"


def test_a_cancelled_answer_is_not_mentioned_again() -> None:
    loop = Loop(BYTES, a={}, b={"stop": ("x",)})
    assert loop.answers.forget([1, 2, 77]) == 2
    answered = loop.step({"a": LENGTH}, a=ord("x"), b=ord("x"))
    assert answered == Answered(Report(step=1), [])


def test_a_refused_sequence_is_live_until_its_refusal_is_read() -> None:
    answers = Answers(BYTES, lambda: 0.0)
    refused = Failed(7, FailureCode.INVALID, "no")
    answers.start(Start(1, (), (refused,)))
    assert list(answers.live) == [7]
    assert answers.read(Report(failed=(refused,))).report.failed == (refused,)
    assert not answers.live


@both
@given(
    st.lists(
        st.tuples(st.binary(max_size=12), st.lists(st.sampled_from(["a", "é", "b\n"]), max_size=2)),
        min_size=1,
        max_size=4,
    )
)
def test_answers_side_by_side_are_what_each_is_alone(
    texts: TokenTexts, wanted: list[tuple[bytes, list[str]]]
) -> None:
    names = {f"s{number}": each for number, each in enumerate(wanted)}
    loop = Loop(texts, **{name: {"stop": tuple(stop)} for name, (_, stop) in names.items()})
    for at in range(13):
        # After its bytes each answer ends with end-of-sequence.
        rows = {n: data[at] if at < len(data) else EOS for n, (data, _) in names.items()}
        rows = {n: token for n, token in rows.items() if loop.given[n] <= len(names[n][0])}
        ends = {n: Ending(FinishReason.EOS, stop_token_id=EOS) for n in rows if rows[n] == EOS}
        loop.step(ends, **rows)
    for name, (data, stop) in names.items():
        text = data.decode(errors="replace")
        found = [at for each in stop if (at := text.find(each)) >= 0]
        assert loop.text[name] == text[: min(found, default=len(text))]
    assert not loop.answers.live
