from __future__ import annotations

from pathlib import Path

import pytest
from tokenizers import Tokenizer
from tokenizers.models import WordLevel

from predictor_svc.encoder import Encoder, PromptText, Turn, load_encoder
from predictor_svc.training.backbone import packaged_folder

TOKENIZER = packaged_folder() / "tokenizer.json"
CLS, SEP = 101, 102


def words(encoder_tokens: list[int]) -> list[str]:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    return [str(tokenizer.id_to_token(each)) for each in encoder_tokens]


def test_a_short_prompt_is_kept_whole_between_its_markers() -> None:
    (ids,) = load_encoder(TOKENIZER, 16).encode([PromptText("hello big world")])
    assert words(ids) == ["[CLS]", "hello", "big", "world", "[SEP]"]


def test_of_a_long_prompt_the_last_tokens_are_kept() -> None:
    prompt = " ".join(["first"] * 50 + ["then", "the", "last", "words"])
    (ids,) = load_encoder(TOKENIZER, 8).encode([PromptText(prompt)])
    assert words(ids) == ["[CLS]", "first", "first", "then", "the", "last", "words", "[SEP]"]


def test_turns_come_before_the_prompt_and_are_cut_first() -> None:
    text = PromptText("and now", (Turn("user", "oldest one"), Turn("assistant", "answer")))
    (whole,) = load_encoder(TOKENIZER, 32).encode([text])
    assert words(whole) == (
        ["[CLS]", "oldest", "one", "[SEP]", "answer", "[SEP]", "and", "now", "[SEP]"]
    )
    (cut,) = load_encoder(TOKENIZER, 8).encode([text])
    assert words(cut) == ["[CLS]", "one", "[SEP]", "answer", "[SEP]", "and", "now", "[SEP]"]


def test_a_prompt_of_a_mebibyte_has_the_tail_of_its_end() -> None:
    encoder = load_encoder(TOKENIZER, 64)
    end = "please summarise all of this in three words " * 40
    (of_all,) = encoder.encode([PromptText("x " * 500_000 + end)])
    (of_end,) = encoder.encode([PromptText(end)])
    assert of_all == of_end


def test_special_token_strings_do_not_break_the_encoder() -> None:
    (ids,) = load_encoder(TOKENIZER, 16).encode([PromptText("[PAD] [CLS] \x00 \U0001f600")])
    assert ids[0] == CLS
    assert ids[-1] == SEP


def test_many_prompts_come_back_in_their_order() -> None:
    encoder = load_encoder(TOKENIZER, 16)
    texts = [PromptText(f"number {n}", (Turn("user", "hi"),) * (n % 3)) for n in range(20)]
    assert encoder.encode(texts) == [encoder.encode([text])[0] for text in texts]


def test_the_file_s_own_truncation_is_switched_off(tmp_path: Path) -> None:
    tokenizer = Tokenizer.from_file(str(TOKENIZER))
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (ids,) = load_encoder(tmp_path / "tokenizer.json", 16).encode([PromptText("a b c d e f")])
    assert len(ids) == 8


def test_a_tokenizer_without_markers_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no \[CLS\] token"):
        Encoder(Tokenizer(WordLevel({"[UNK]": 0}, unk_token="[UNK]")), 16)  # noqa: S106
