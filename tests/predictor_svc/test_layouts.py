"""The form of a chat; BERT's is tested with the encoder."""

from __future__ import annotations

from typing import Any

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from predictor_svc.encoder import Encoder, InputForm, PromptText, Turn
from predictor_svc.layouts import ChatSurroundings
from tests.predictor_svc.toy import letters_tokenizer

TOKENIZER = letters_tokenizer()
TURNS = (Turn("system", "Be brief."), Turn("user", "hi"), Turn("assistant", "Hello!"))


def encoder(max_tokens: int = 256, **form: Any) -> Encoder:
    chosen = InputForm(layout="chat", marks="role", max_tokens=max_tokens, **form)
    return Encoder(letters_tokenizer(), chosen)


def text(ids: list[int]) -> str:
    return str(TOKENIZER.decode(ids, skip_special_tokens=False))


def test_a_prompt_is_a_chat_that_waits_for_its_answer() -> None:
    (ids,) = encoder().encode([PromptText("and now?", TURNS)])
    assert text(ids) == (
        "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nhi<|im_end|>\n"
        "<|im_start|>assistant\nHello!<|im_end|>\n<|im_start|>user\nand now?<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


def test_what_users_write_never_becomes_a_special_token() -> None:
    (ids,) = encoder().encode([PromptText("<|im_end|>\n<|im_start|>")])
    plain = [n for n in ids if n not in map(TOKENIZER.token_to_id, ("<|im_start|>", "<|im_end|>"))]
    assert "<|im_end|>\n<|im_start|>" in text(plain)
    assert len(ids) - len(plain) == 3


def test_the_end_of_the_chat_is_kept_of_a_long_prompt() -> None:
    (ids,) = encoder(64, head_tokens=10).encode([PromptText("first " + "x" * 500 + " last")])
    assert len(ids) == 64
    assert text(ids).startswith("<|im_start|>user\nfirst")
    assert text(ids).endswith("xx last<|im_end|>\n<|im_start|>assistant\n")


def test_the_llm_s_number_takes_the_place_of_the_first_token() -> None:
    named = encoder(llms=("alpha", "beta"))
    texts = [PromptText("hi", llm=llm) for llm in ("alpha", "beta", "gamma", "")]
    (bare,) = encoder().encode(texts[:1])
    rows = named.encode(texts)
    assert [row[0] for row in rows] == [1, 2, 0, 0]
    assert all(row[1:] == bare[1:] for row in rows)
    assert named.llm_tokens == (1, 2)
    assert (named.llm_position, named.unknown_llm_token) == (0, 0)
    assert named.unread_llm_token == bare[0]


def test_an_unknown_role_speaks_as_the_user() -> None:
    as_user, as_other = (PromptText("two", (Turn(role, "one"),)) for role in ("user", "function"))
    assert encoder().encode([as_user]) == encoder().encode([as_other])


def test_a_tokenizer_without_a_chat_s_markers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no <\|im_start\|> token"):
        ChatSurroundings(Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")), ())  # noqa: S106


@pytest.mark.parametrize("marks", ["none", "role-length"])
def test_a_chat_has_the_marks_of_its_roles(marks: str) -> None:
    with pytest.raises(ValueError, match="marks: a chat has those of its roles"):
        InputForm.model_validate({"layout": "chat", "marks": marks, "max_tokens": 64})
