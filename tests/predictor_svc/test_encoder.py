from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from predictor_svc.encoder import Encoder, InputForm, PromptText, Turn, load_encoder
from predictor_svc.training.backbone import packaged_folder

TOKENIZER = packaged_folder() / "tokenizer.json"
CLS, SEP = 101, 102


def encoder(max_tokens: int, **form: Any) -> Encoder:
    return load_encoder(TOKENIZER, InputForm(max_tokens=max_tokens, **form))


def words(encoder_tokens: list[int]) -> list[str]:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    return [str(tokenizer.id_to_token(each)) for each in encoder_tokens]


def test_a_short_prompt_is_kept_whole_between_its_markers() -> None:
    (ids,) = encoder(16).encode([PromptText("hello big world")])
    assert words(ids) == ["[CLS]", "hello", "big", "world", "[SEP]"]


def test_of_a_long_prompt_the_last_tokens_are_kept() -> None:
    prompt = " ".join(["first"] * 50 + ["then", "the", "last", "words"])
    (ids,) = encoder(8).encode([PromptText(prompt)])
    assert words(ids) == ["[CLS]", "first", "first", "then", "the", "last", "words", "[SEP]"]


def test_turns_come_before_the_prompt_and_are_cut_first() -> None:
    text = PromptText("and now", (Turn("user", "oldest one"), Turn("assistant", "answer")))
    (whole,) = encoder(32).encode([text])
    assert words(whole) == (
        ["[CLS]", "oldest", "one", "[SEP]", "answer", "[SEP]", "and", "now", "[SEP]"]
    )
    (cut,) = encoder(8).encode([text])
    assert words(cut) == ["[CLS]", "one", "[SEP]", "answer", "[SEP]", "and", "now", "[SEP]"]


def test_a_prompt_of_a_mebibyte_has_the_tail_of_its_end() -> None:
    long = encoder(64)
    end = "please summarise all of this in three words " * 40
    (of_all,) = long.encode([PromptText("x " * 500_000 + end)])
    (of_end,) = long.encode([PromptText(end)])
    assert of_all == of_end


def test_special_token_strings_do_not_break_the_encoder() -> None:
    (ids,) = encoder(16).encode([PromptText("[PAD] [CLS] \x00 \U0001f600")])
    assert ids[0] == CLS
    assert ids[-1] == SEP


def test_many_prompts_come_back_in_their_order() -> None:
    sixteen = encoder(16)
    texts = [PromptText(f"number {n}", (Turn("user", "hi"),) * (n % 3)) for n in range(20)]
    assert sixteen.encode(texts) == [sixteen.encode([text])[0] for text in texts]


def test_the_file_s_own_truncation_is_switched_off(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (ids,) = load_encoder(tmp_path / "tokenizer.json", InputForm(max_tokens=16)).encode(
        [PromptText("a b c d e f")]
    )
    assert len(ids) == 8


def test_a_tokenizer_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no \[CLS\] token"):
        Encoder(Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")), InputForm(max_tokens=16))  # noqa: S106


COUNTING = PromptText(" ".join(["one", "two", "three", *["many"] * 90, "eight", "nine", "ten"]))


def test_of_a_long_prompt_head_and_tail_are_kept() -> None:
    (ids,) = encoder(8, head_tokens=3).encode([COUNTING])
    assert words(ids) == ["[CLS]", "one", "two", "three", "eight", "nine", "ten", "[SEP]"]


def test_a_prompt_that_fits_is_the_same_with_a_head() -> None:
    text = [PromptText("hello big world", (Turn("user", "hi"),))]
    assert encoder(8, head_tokens=4).encode(text) == encoder(8).encode(text)


def test_the_head_of_a_mebibyte_is_its_true_beginning_even_behind_a_short_turn() -> None:
    text = PromptText("first second " + "x " * 500_000 + "end", (Turn("user", "hi"),))
    (ids,) = encoder(10, head_tokens=4).encode([text])
    assert words(ids) == ["[CLS]", "hi", "[SEP]", "first", "second", *"xxx", "end", "[SEP]"]


def test_earlier_turns_can_be_left_unread() -> None:
    text = PromptText("and now", (Turn("user", "oldest one"),))
    (ids,) = encoder(32, turns=False).encode([text])
    assert words(ids) == ["[CLS]", "and", "now", "[SEP]"]


def test_the_llm_stands_after_the_first_marker_and_one_never_seen_has_its_own_token() -> None:
    texts = [PromptText("hi", llm=llm) for llm in ("alpha", "beta", "gamma", "")]
    found = encoder(16, llms=("alpha", "beta"))
    assert [words(ids)[:2] for ids in found.encode(texts)] == [
        ["[CLS]", "[unused1]"],
        ["[CLS]", "[unused2]"],
        ["[CLS]", "[unused0]"],
        ["[CLS]", "[unused0]"],
    ]
    assert found.llm_tokens == (2, 3)
    assert found.unknown_llm_token == 1


@pytest.mark.parametrize(
    ("llm", "token"),
    [
        ("maker/Llama-3-8B", "[unused1]"),
        ("llama-3-8b.Q4_K_M.gguf", "[unused1]"),
        ("Llama-3.2-1B", "[unused4]"),
        ("Phi-3", "[unused3]"),
        ("gpt-2", "[unused0]"),
    ],
)
def test_an_unknown_name_is_read_as_a_known_one_or_the_family_s(llm: str, token: str) -> None:
    llms = ("maker/Llama-3-8B", "maker/Llama-3-70B", "maker/Phi-4")
    found = encoder(16, llms=llms, families=("llama-3",))
    assert words(found.encode([PromptText("hi", llm=llm)])[0])[1] == token
    assert found.llm_tokens == (2, 3, 4, 5)


def test_the_llm_takes_its_place_from_the_tail() -> None:
    (ids,) = encoder(8, llms=("alpha",), head_tokens=2).encode([COUNTING])
    assert words(ids) == ["[CLS]", "[unused0]", "one", "two", "eight", "nine", "ten", "[SEP]"]


def test_without_llms_to_tell_apart_the_name_is_not_read() -> None:
    named, unnamed = encoder(8).encode([PromptText("hi", llm="alpha"), PromptText("hi")])
    assert named == unnamed


@pytest.mark.parametrize(
    ("form", "message"),
    [
        ({"head_tokens": 6}, "head_tokens: leaves no room"),
        ({"llms": ("a", "a")}, "llms: a name stands twice"),
        ({"llms": ("a", "b"), "families": ("b",)}, "llms: a name stands twice"),
        ({"families": tuple(map(str, range(900)))}, "llms: at most 899"),
    ],
)
def test_impossible_forms_are_refused(form: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        InputForm(max_tokens=8, **form)


@pytest.mark.parametrize(
    ("marks", "expected"),
    [
        ("none", []),
        ("role", ["[unused900]", "[unused916]", "[unused900]"]),
        ("role-length", ["[unused902]", "[unused924]", "[unused902]"]),
    ],
)
def test_marks_tell_each_message_s_role_and_length(marks: str, expected: list[str]) -> None:
    turns = (Turn("user", "one"), Turn("assistant", "one " * 40))
    (ids,) = encoder(128, marks=marks).encode([PromptText("two", turns)])
    assert [word for word in words(ids) if word.startswith("[unused9")] == expected


def test_an_unknown_role_is_marked_as_the_user_s() -> None:
    as_user = PromptText("two", (Turn("user", "one"),))
    as_other = PromptText("two", (Turn("function", "one"),))
    marking = encoder(64, marks="role")
    assert marking.encode([as_user]) == marking.encode([as_other])
