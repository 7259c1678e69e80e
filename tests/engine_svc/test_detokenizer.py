from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from engine_svc.detokenizer import ByteDetokenizer, ContextDetokenizer, Detokenizer
from engine_svc.tokenizer import Tokenizer

BYTES = [bytes([byte]) for byte in range(256)]


def letters(token_ids: Sequence[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(token_ids).decode(errors="replace")


# Both forms, of the same vocabulary.
both = pytest.mark.parametrize(
    "make", [lambda: ByteDetokenizer(BYTES), lambda: ContextDetokenizer(letters)], ids=["b", "c"]
)
Make = Callable[[], Detokenizer]


def stream(detokenizer: Detokenizer, token_ids: Sequence[int]) -> list[str]:
    return [*(detokenizer.feed(each) for each in token_ids), detokenizer.flush()]


@both
def test_text_comes_with_its_token(make: Make) -> None:
    assert stream(make(), b"abc") == ["a", "b", "c", ""]


@both
def test_a_character_of_several_tokens_comes_when_it_is_whole(make: Make) -> None:
    parts = stream(make(), "é€👋".encode())
    assert parts == ["", "é", "", "", "€", "", "", "", "👋", ""]


@both
def test_a_broken_character_comes_at_the_end(make: Make) -> None:
    assert stream(make(), b"a\xe2\x82") == ["a", "", "", "\N{REPLACEMENT CHARACTER}"]


@both
def test_a_broken_character_in_the_middle_does_not_block(make: Make) -> None:
    assert "".join(stream(make(), b"a\xffbc")) == "a\N{REPLACEMENT CHARACTER}bc"


@both
@given(st.binary(max_size=40))
def test_any_bytes_give_the_text_that_decoding_them_at_once_gives(make: Make, data: bytes) -> None:
    assert "".join(stream(make(), data)) == data.decode(errors="replace")


def test_only_an_open_character_makes_the_next_token_depend_on_it() -> None:
    detokenizer = ByteDetokenizer(BYTES)
    detokenizer.feed(0xC3)
    assert detokenizer.needs_every_token
    detokenizer.feed(0xA9)
    assert not detokenizer.needs_every_token


def test_tokens_without_text_do_not_pile_up(tokenizer: Tokenizer) -> None:
    detokenizer = ContextDetokenizer(tokenizer.decode)
    for _ in range(100):
        assert detokenizer.feed(2) == ""
    assert len(detokenizer._tokens) < 2


@given(st.lists(st.integers(0, 49_151), max_size=60))
def test_any_tokens_of_a_byte_vocabulary_give_the_text_of_all_at_once(
    tokenizer: Tokenizer, token_ids: list[int]
) -> None:
    pieces = tokenizer.token_bytes()
    assert pieces is not None
    whole = tokenizer.decode(token_ids)
    assert "".join(stream(ByteDetokenizer(pieces), token_ids)) == whole
    assert "".join(stream(ContextDetokenizer(tokenizer.decode), token_ids)) == whole


@pytest.fixture(scope="module")
def sentencepiece() -> Any:
    """A vocabulary as Llama 2's: a leading space that is dropped, bytes for what has no piece."""
    words = ["<s>", "▁Hello", "▁world", "lo", "▁", "▁▁", "é"]
    vocabulary = {word: number for number, word in enumerate(words)}
    vocabulary |= {f"<0x{byte:02X}>": len(words) + byte for byte in range(256)}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.BPE(vocabulary, [], byte_fallback=True))
    decoders = tokenizers.decoders
    tokenizer.decoder = decoders.Sequence(
        [
            decoders.Replace("▁", " "),
            decoders.ByteFallback(),
            decoders.Fuse(),
            decoders.Strip(" ", 1, 0),
        ]
    )
    return tokenizer


@given(st.lists(st.integers(1, 6), max_size=20))
def test_any_pieces_of_a_sentencepiece_vocabulary_give_the_text_of_all_at_once(
    sentencepiece: tokenizers.Tokenizer, token_ids: list[int]
) -> None:
    parts = stream(ContextDetokenizer(sentencepiece.decode), token_ids)
    assert "".join(parts) == sentencepiece.decode(token_ids)


@given(st.text(min_size=1, max_size=10))
def test_characters_that_fall_back_to_bytes_come_whole(
    sentencepiece: tokenizers.Tokenizer, text: str
) -> None:
    token_ids = [1, *(7 + byte for byte in text.encode())]
    parts = stream(ContextDetokenizer(sentencepiece.decode), token_ids)
    assert "".join(parts) == f"Hello{text}"


class Pretrained:
    """What a tokenizer is made of, with another decoder."""

    chat_template = None
    eos_token_id = None

    def __init__(self, tokenizer: Tokenizer, decoder: tokenizers.decoders.Decoder) -> None:
        self.backend_tokenizer = tokenizers.Tokenizer.from_str(tokenizer._tokenizer.to_str())
        self.backend_tokenizer.decoder = decoder


def test_steps_without_effect_do_not_hide_that_a_vocabulary_is_bytes(tokenizer: Tokenizer) -> None:
    decoders = tokenizers.decoders
    steps = [decoders.ByteFallback(), decoders.Fuse(), decoders.ByteLevel()]
    behind = Tokenizer(Pretrained(tokenizer, decoders.Sequence(steps)))
    assert behind.token_bytes() == tokenizer.token_bytes() is not None


def test_a_step_with_effect_is_not_taken_for_none(tokenizer: Tokenizer) -> None:
    decoders = tokenizers.decoders
    steps = [decoders.Replace("e", "a"), decoders.ByteLevel()]
    assert Tokenizer(Pretrained(tokenizer, decoders.Sequence(steps))).token_bytes() is None
