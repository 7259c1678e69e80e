from __future__ import annotations

import numpy as np
import pytest

from predictor_svc.cache import OutputCache, Row, digest
from predictor_svc.encoder import InputForm, PromptText, Turn

FORM = InputForm(max_tokens=32)


def row(value: float) -> Row:
    return np.full(3, value, dtype=np.float32)


def test_what_was_put_is_found() -> None:
    cache = OutputCache(2)
    cache.put(b"a", row(1))
    found = cache.get(b"a")
    assert found is not None
    assert found.tolist() == [1, 1, 1]
    assert cache.get(b"b") is None


def test_the_least_recently_asked_for_is_forgotten_first() -> None:
    cache = OutputCache(2)
    cache.put(b"a", row(1))
    cache.put(b"b", row(2))
    cache.get(b"a")
    cache.put(b"c", row(3))
    assert len(cache) == 2
    assert cache.get(b"b") is None
    assert cache.get(b"a") is not None


def test_putting_again_takes_no_second_place() -> None:
    cache = OutputCache(2)
    cache.put(b"a", row(1))
    cache.put(b"b", row(2))
    cache.put(b"a", row(3))
    assert len(cache) == 2
    assert cache.get(b"b") is not None


def test_a_cache_of_nothing_keeps_nothing() -> None:
    cache = OutputCache(0)
    cache.put(b"a", row(1))
    assert not cache.enabled
    assert cache.get(b"a") is None


def test_a_row_is_kept_without_the_batch_it_came_in() -> None:
    cache = OutputCache(1)
    batch = np.zeros((32, 3), dtype=np.float32)
    cache.put(b"a", batch[0])
    batch[:] = 7
    found = cache.get(b"a")
    assert found is not None
    assert found.base is None
    assert found.tolist() == [0, 0, 0]


@pytest.mark.parametrize(
    "other",
    [
        PromptText("go ahead", (Turn("user", "hi"),)),
        PromptText("go on", (Turn("user", "hello"),)),
        PromptText("go on"),
        PromptText("on", (Turn("user", "hi"), Turn("user", "go "))),
        PromptText("go on", (Turn("user", "h"), Turn("user", "i"))),
        PromptText("ign", (Turn("user", "go on"),)),
    ],
)
def test_prompts_that_read_differently_have_other_digests(other: PromptText) -> None:
    assert digest(PromptText("go on", (Turn("user", "hi"),)), FORM) != digest(other, FORM)


def test_a_turn_s_role_makes_a_difference_where_it_is_read() -> None:
    said = PromptText("go on", (Turn("user", "hi"),))
    answered = PromptText("go on", (Turn("assistant", "hi"),))
    assert digest(said, FORM) == digest(answered, FORM)
    marked = InputForm(max_tokens=32, marks="role")
    assert digest(said, marked) != digest(answered, marked)


def test_what_the_network_does_not_read_makes_no_difference() -> None:
    form = InputForm(max_tokens=32, turns=False)
    one = PromptText("go on", (Turn("user", "hi"),), llm="a")
    assert digest(one, form) == digest(PromptText("go on", llm="b"), form)


def test_the_llm_makes_a_difference_where_it_is_read() -> None:
    form = InputForm(max_tokens=64, llms=("a", "b"))
    a, b, c, d = (digest(PromptText("hi", llm=name), form) for name in "abcd")
    assert len({a, b, c}) == 3
    assert c == d  # neither has a token of its own


def test_an_llm_shares_answers_with_the_one_that_it_is_read_as() -> None:
    form = InputForm(max_tokens=64, llms=("gemma-3-4b", "gemma-3-12b"), families=("gemma-3",))
    names = ("gemma-3-4b", "gemma-3-4b.Q8_0.gguf", "gemma-3-27b", "gemma-3-70b", "other")
    known, respelt, one, two, other = (digest(PromptText("hi", llm=name), form) for name in names)
    assert known == respelt
    assert one == two
    assert len({known, one, other}) == 3


def test_a_lone_surrogate_has_a_digest() -> None:
    assert len(digest(PromptText("\ud800"), FORM)) == 16
