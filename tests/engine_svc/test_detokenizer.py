from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine_svc.detokenizer import Detokenizer
from engine_svc.tokenizer import Tokenizer


def letters(token_ids: list[int]) -> str:
    """A tokenizer whose tokens are bytes."""
    return bytes(token_ids).decode(errors="replace")


def stream(text: bytes, *stop: str) -> tuple[list[str], str | None]:
    detokenizer = Detokenizer(letters, stop)  # type: ignore[arg-type]
    parts = []
    for byte in text:
        part, found = detokenizer.feed(byte)
        parts.append(part)
        if found is not None:
            return parts, found
    return [*parts, detokenizer.flush()], None


def test_text_comes_with_its_token() -> None:
    assert stream(b"abc") == (["a", "b", "c", ""], None)


def test_a_character_of_several_tokens_comes_when_it_is_whole() -> None:
    assert stream("é€👋".encode())[0] == ["", "é", "", "", "€", "", "", "", "👋", ""]


def test_a_broken_character_comes_at_the_end() -> None:
    assert stream(b"a\xe2\x82") == (["a", "", "", "\N{REPLACEMENT CHARACTER}"], None)


def test_a_broken_character_in_the_middle_does_not_block() -> None:
    assert "".join(stream(b"a\xffbc")[0]) == "a\N{REPLACEMENT CHARACTER}bc"


def test_a_stop_string_across_tokens_ends_the_answer_and_is_no_part_of_it() -> None:
    parts, found = stream(b"one. END two", "END")
    assert ("".join(parts), found) == ("one. ", "END")


def test_what_may_begin_a_stop_string_is_held_until_it_does_not() -> None:
    assert stream(b"aENb", "END")[0] == ["a", "", "", "ENb", ""]


def test_a_held_beginning_comes_out_at_the_end() -> None:
    assert stream(b"aEN", "END") == (["a", "", "", "EN"], None)


def test_the_first_of_several_stop_strings_wins() -> None:
    parts, found = stream(b"a\n\nb", "b", "\n\n")
    assert ("".join(parts), found) == ("a", "\n\n")


def test_a_stop_string_that_begins_within_another_is_found() -> None:
    parts, found = stream(b"aab!", "aaa", "ab")
    assert ("".join(parts), found) == ("a", "ab")


def test_stop_strings_pass_while_the_answer_may_not_stop() -> None:
    detokenizer = Detokenizer(letters, ("b",))  # type: ignore[arg-type]
    assert detokenizer.feed(ord("b"), may_stop=False) == ("b", None)
    assert detokenizer.feed(ord("b"), may_stop=True) == ("", "b")


def test_tokens_without_text_do_not_pile_up(tokenizer: Tokenizer) -> None:
    detokenizer = Detokenizer(tokenizer.decode)
    for _ in range(100):
        assert detokenizer.feed(2) == ("", None)
    assert len(detokenizer._tokens) < 2


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=3), max_size=3))
def test_any_text_ends_at_its_first_stop_string(text: str, stop: list[str]) -> None:
    parts, found = stream(text.encode(), *stop)
    if found is None:
        assert "".join(parts) == text
        assert not any(each in text for each in stop)
    else:
        said = "".join(parts)
        assert text.startswith(said + found)
        assert not any(each in said for each in stop)


@given(st.lists(st.integers(0, 49_151), max_size=60))
def test_any_tokens_give_the_text_that_decoding_them_at_once_gives(
    tokenizer: Tokenizer, token_ids: list[int]
) -> None:
    detokenizer = Detokenizer(tokenizer.decode)
    parts = [detokenizer.feed(token_id)[0] for token_id in token_ids]
    assert "".join(parts) + detokenizer.flush() == tokenizer.decode(token_ids)
