from __future__ import annotations

from collections.abc import Iterable

import pytest

from predictor_svc.encoder import PromptText, Turn
from predictor_svc.training.data import (
    Example,
    Lengths,
    Prompt,
    Split,
    pool_validation,
    published_split,
    split_by_prompt,
    without_prompts,
)


def example(text: str, *, conversation: str = "", split: str = "", llm: str = "a") -> Example:
    prompt = Prompt(text, "own", PromptText(text, llm=llm), conversation)
    return Example(prompt, llm, Lengths((3,), (True,)), split)


def numbered(count: int) -> list[Example]:
    """Two LLMs on each prompt."""
    return [example(f"prompt {n}", llm=llm) for n in range(count) for llm in "ab"]


def texts(examples: Iterable[Example]) -> set[str]:
    return {each.prompt.text.prompt for each in examples}


def drawn(examples: list[Example]) -> Split:
    return split_by_prompt(examples, seed=3, validation_share=0.2, test_share=0.2)


def test_a_split_shares_no_prompt_and_loses_no_row() -> None:
    split = drawn(numbered(200))
    parts = [texts(part) for part in (split.train, split.validation, split.test)]
    assert sum(len(part) for part in parts) == 200
    assert len(split.train) + len(split.validation) + len(split.test) == 400
    assert all(len(part) >= 20 for part in parts)
    assert split.dropped == 0


def test_a_split_is_the_same_again_and_more_data_moves_nothing() -> None:
    some, all_ = drawn(numbered(100)), drawn(numbered(200))
    assert set(some.test) <= set(all_.test)
    assert set(some.train) <= set(all_.train)


def test_the_messages_of_a_conversation_stay_together() -> None:
    rows = [example(f"{c}, message {m}", conversation=f"c{c}") for c in range(60) for m in range(4)]
    split = drawn(rows)
    parts = [{each.conversation for each in p} for p in (split.train, split.validation, split.test)]
    assert sum(len(part) for part in parts) == 60
    assert all(parts)


def test_a_prompt_of_two_conversations_is_dropped_where_it_is_not_held_out() -> None:
    rows = [
        example(text, conversation=f"c{c}")
        for c in range(60)
        for text in (f"first of {c}", "Go on")
    ]
    split = drawn(rows)
    assert "Go on" in texts(split.test)
    assert "Go on" not in texts(split.train) | texts(split.validation)
    assert split.dropped == 60 - len(split.test) // 2
    assert len(split.train) + len(split.validation) + len(split.test) == 120 - split.dropped


def test_conversations_that_end_without_a_word_are_told_apart_by_their_turns() -> None:
    rows = [
        Example(
            Prompt(f"p{c}", "own", PromptText("", (Turn("user", f"book flight {c}"),)), f"c{c}"),
            "a",
            Lengths((3,), (True,)),
        )
        for c in range(50)
    ]
    assert drawn(rows).dropped == 0


def test_the_published_split_is_taken_and_the_rest_counted() -> None:
    rows = [
        example("one", split="train"),
        example("two", split="validate"),
        example("three", split="test"),
        example("four"),
    ]
    split = published_split(rows)
    assert [texts(part) for part in (split.train, split.validation, split.test)] == [
        {"one"},
        {"two"},
        {"three"},
    ]
    assert split.unassigned == 1


def test_a_published_test_prompt_never_stays_in_train_or_validation() -> None:
    rows = [
        example("shared", split="train"),
        example("Shared ", split="validation"),
        example("shared", split="test"),
        example("own", split="train"),
    ]
    split = published_split(rows)
    assert (texts(split.train), split.validation, len(split.test)) == ({"own"}, (), 1)
    assert split.dropped == 2


def test_a_validation_prompt_never_stays_in_train() -> None:
    split = published_split([example("x", split="train"), example("x", split="dev", llm="b")])
    assert (len(split.train), len(split.validation), split.dropped) == (0, 1, 1)


def test_a_split_that_is_none_is_refused() -> None:
    with pytest.raises(ValueError, match="split 'tset' is none of train, "):
        published_split([example("x", split="tset")])
    with pytest.raises(ValueError, match="no row has a `split`"):
        published_split([example("x")])


def test_pooling_moves_validation_prompts_whole_into_train() -> None:
    rows = [example(f"v{n}", split="validate", llm=llm) for n in range(50) for llm in "ab"]
    split = published_split([*rows, example("t", split="train"), example("e", split="test")])
    pooled = pool_validation(split, seed=1, share=0.2)
    assert len(texts(pooled.validation)) == 10
    assert len(pooled.validation) == 20
    assert len(pooled.train) == 81
    assert not texts(pooled.train) & texts(pooled.validation)
    assert pooled == pool_validation(split, seed=1, share=0.2)


def test_held_out_prompts_are_dropped_whatever_their_case_and_spacing() -> None:
    held = [Prompt("h", "", PromptText(" Prompt  1\n"))]
    assert texts(without_prompts(numbered(3), held)) == {"prompt 0", "prompt 2"}
