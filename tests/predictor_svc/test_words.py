from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer

from predictor_svc import words
from predictor_svc.training.backbone import packaged_folder
from predictor_svc.words import WordMemory


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    made = Tokenizer.from_file(str(packaged_folder() / "tokenizer.json"))
    made.no_truncation()
    made.no_padding()
    return made


@pytest.fixture(scope="module")
def memory(tokenizer: Tokenizer) -> WordMemory:
    return WordMemory(tokenizer)


def by_library(tokenizer: Tokenizer, texts: list[str]) -> list[list[int]]:
    return [each.ids for each in tokenizer.encode_batch_fast(texts, add_special_tokens=False)]


ODD = ["[MASK]", "[mask]", "[CLS]", "[unused5]", "don't", "snake_case", "é", "\x00", "\x1c", "\x7f"]
# Spaces that are none in ASCII, what joins or leaves a letter, scripts without spaces.
ODD += [
    "\u2028",
    "\u3000",
    "\u200b",
    "\xad",
    "e\u0301",
    "\u0301",
    "Σίσυφος",
    "ΣΑΣ",
    "İ",
    "中文",
    "한국",
    "🙂",
]
PIECES = st.one_of(st.text(st.characters(max_codepoint=0x17F)), st.sampled_from(ODD), st.just(" "))


@settings(deadline=None, max_examples=300)
@given(st.lists(st.lists(PIECES, max_size=8).map("".join), max_size=4))
def test_ids_are_the_library_s(tokenizer: Tokenizer, memory: WordMemory, texts: list[str]) -> None:
    assert memory.ids(texts) == by_library(tokenizer, texts)


@pytest.mark.parametrize("length", [words.LONGEST_WORD, words.LONGEST_WORD + 1, 100, 101])
def test_long_words_are_split_like_the_library_s(tokenizer: Tokenizer, length: int) -> None:
    text = f"see {'ab' * length}"[: 4 + length] + " again"
    memory = WordMemory(tokenizer)
    assert memory.ids([text, text]) == by_library(tokenizer, [text, text])


def test_ids_come_from_memory_once_words_are_known(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    memory = WordMemory(tokenizer)
    learnt = memory.ids(["Words, words: naïve (again)!"])
    monkeypatch.setattr(memory, "_split", lambda parts: pytest.fail(str(parts)) if parts else {})
    assert memory.ids(["Words, words: naïve (again)!"]) == learnt
    assert memory.ids(["again, Words!"])  # their pieces are known, too


def test_words_are_forgotten_at_the_bound_and_learnt_anew(
    tokenizer: Tokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(words, "MOST_WORDS", 3)
    memory = WordMemory(tokenizer)
    texts = ["one two three four", "five six", "one six seven"]
    for text in texts * 2:
        assert memory.ids([text]) == by_library(tokenizer, [text])


def test_a_cased_tokenizer_s_words_keep_their_case(tokenizer: Tokenizer, tmp_path: Path) -> None:
    cased = tmp_path / "tokenizer.json"
    cased.write_text(tokenizer.to_str().replace('"lowercase":true', '"lowercase":false'))
    made = Tokenizer.from_file(str(cased))
    assert WordMemory(made).ids(["Big small"]) == by_library(made, ["Big small"])
    assert by_library(made, ["Big"]) != by_library(tokenizer, ["Big"])
