from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from engine_svc.stop_strings import StopStrings


def stream(text: str, *stop: str) -> tuple[list[str], str | None]:
    strings = StopStrings(stop)
    parts = []
    for character in text:
        part, found = strings.feed(character)
        parts.append(part)
        if found is not None:
            return parts, found
    return [*parts, strings.flush()], None


def test_a_stop_string_across_tokens_ends_the_answer_and_is_no_part_of_it() -> None:
    parts, found = stream("one. END two", "END")
    assert ("".join(parts), found) == ("one. ", "END")


def test_what_may_begin_a_stop_string_is_held_until_it_does_not() -> None:
    assert stream("aENb", "END")[0] == ["a", "", "", "ENb", ""]


def test_a_held_beginning_comes_out_at_the_end() -> None:
    assert stream("aEN", "END") == (["a", "", "", "EN"], None)


def test_the_first_of_several_stop_strings_wins() -> None:
    parts, found = stream("a\n\nb", "b", "\n\n")
    assert ("".join(parts), found) == ("a", "\n\n")


def test_the_longest_of_those_that_begin_together_wins() -> None:
    assert StopStrings(("ab", "abc")).feed("xabcd") == ("x", "abc")


def test_a_stop_string_that_begins_within_another_is_found() -> None:
    parts, found = stream("aab!", "aaa", "ab")
    assert ("".join(parts), found) == ("a", "ab")


def test_stop_strings_pass_while_the_answer_may_not_stop() -> None:
    strings = StopStrings(("b",))
    assert strings.feed("b", may_stop=False) == ("b", None)
    assert strings.feed("b", may_stop=True) == ("", "b")


@given(st.text(max_size=40), st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=3))
def test_any_text_ends_at_its_first_stop_string(text: str, stop: list[str]) -> None:
    parts, found = stream(text, *stop)
    said = "".join(parts)
    assert not any(each in said for each in stop)
    if found is None:
        assert said == text
    else:
        assert text.startswith(said + found)
