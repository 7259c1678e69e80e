"""Training, validation and test examples that share no prompt and no conversation.

Owns which part a prompt belongs to, drawn or as published, and the check that nothing
of the test is in the rest. A split by row would leak: the same prompt stands under many
LLMs, and a conversation's messages follow from one another. Called by `train`.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from predictor_svc.training.example import Example, Prompt

PUBLISHED: Final = {
    "train": 0,
    "training": 0,
    "valid": 1,
    "validate": 1,
    "validation": 1,
    "dev": 1,
    "test": 2,
}


@dataclass(frozen=True, slots=True)
class Split:
    """Examples apart by prompt and by conversation."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    dropped: int = 0
    """Rows left out of train and validation because their prompt is in a part held out."""
    unassigned: int = 0
    """Rows left out because no part is published for them."""


def split_by_prompt(
    examples: Sequence[Example], seed: int, validation_share: float, test_share: float
) -> Split:
    """Three parts by conversation, or by prompt where none is named; the same for the same seed.

    A part depends on the seed and the conversation's name (or the prompt's text) alone, so
    adding data moves nothing from one part to another. A prompt that several conversations
    have stays where it is held out and is dropped from the rest.
    """
    normal = Normalised()

    def part(draw: float) -> int:
        return 2 if draw < test_share else 1 if draw < test_share + validation_share else 0

    drawn: dict[str, int] = {}
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for example in examples:
        group = _group(example, normal)
        if group not in drawn:
            drawn[group] = part(random.Random(f"{seed}:{group}").random())  # noqa: S311
        parts[drawn[group]].append(example)
    return _apart(*parts, normal)


def published_split(examples: Sequence[Example]) -> Split:
    """The parts that the data's `split` column names. Rows without one are left out, counted.

    Raises ValueError for a name that is no part, and where no row has one.
    """
    parts: tuple[list[Example], list[Example], list[Example]] = ([], [], [])
    for example in examples:
        if not example.split:
            continue
        if example.split.lower() not in PUBLISHED:
            known = ", ".join(PUBLISHED)
            raise ValueError(f"split {example.split!r} is none of {known}")
        parts[PUBLISHED[example.split.lower()]].append(example)
    assigned = sum(len(part) for part in parts)
    if not assigned:
        raise ValueError("no row has a `split`")
    return replace(_apart(*parts, Normalised()), unassigned=len(examples) - assigned)


def pool_validation(split: Split, seed: int, share: float) -> Split:
    """Moves all but a `share` of the validation prompts (conversations) into train."""
    normal = Normalised()
    groups = sorted({_group(each, normal) for each in split.validation})
    random.Random(seed).shuffle(groups)  # noqa: S311
    kept = set(groups[: round(share * len(groups))])
    stay = [each for each in split.validation if _group(each, normal) in kept]
    move = [each for each in split.validation if _group(each, normal) not in kept]
    pooled = _apart([*split.train, *move], stay, list(split.test), normal)
    return replace(pooled, dropped=split.dropped + pooled.dropped, unassigned=split.unassigned)


def add_to_train(split: Split, examples: Sequence[Example]) -> Split:
    """The split with more to train on; what the other parts hold of it is dropped, counted."""
    grown = _apart([*split.train, *examples], split.validation, split.test, Normalised())
    return replace(grown, dropped=split.dropped + grown.dropped, unassigned=split.unassigned)


def without_prompts(examples: Iterable[Example], held_out: Iterable[Prompt]) -> list[Example]:
    """The examples whose prompt is none of those held out (compared without case and spacing)."""
    normal = Normalised()
    forbidden = {normal(prompt.text.prompt) for prompt in held_out}
    return [each for each in examples if normal(each.prompt.text.prompt) not in forbidden]


class Normalised:
    """Texts without case and spacing, each worked out once: many rows share a prompt."""

    def __init__(self) -> None:
        self._known: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """The text in lower case, every run of white space one space."""
        if (found := self._known.get(text)) is None:
            found = self._known[text] = " ".join(text.lower().split())
        return found


def _group(example: Example, normal: Callable[[str], str]) -> str:
    """What stays together."""
    if example.conversation:
        return f"conversation {example.conversation} of {example.prompt.source}"
    return said(example.prompt, normal)


def said(prompt: Prompt, normal: Callable[[str], str]) -> str:
    """What makes two prompts the same: the last message that has any text.

    An agent's conversation can end in a call without a word.
    """
    if text := normal(prompt.text.prompt):
        return text
    return " ".join(normal(turn.content) for turn in prompt.text.turns)


def _apart(
    train: Sequence[Example],
    validation: Sequence[Example],
    test: Sequence[Example],
    normal: Callable[[str], str],
) -> Split:
    """Drops from train and validation what the test has, from train what validation has."""

    def unlike(examples: Sequence[Example], *held_out: Sequence[Example]) -> tuple[Example, ...]:
        texts = {said(each.prompt, normal) for part in held_out for each in part}
        groups = {_group(each, normal) for part in held_out for each in part}
        return tuple(
            each
            for each in examples
            if said(each.prompt, normal) not in texts and _group(each, normal) not in groups
        )

    validation_left = unlike(validation, test)
    train_left = unlike(train, validation_left, test)
    before = len(train) + len(validation)
    return Split(
        train_left, validation_left, tuple(test), before - len(train_left) - len(validation_left)
    )
