"""Prompts of an exact number of the network's tokens, as many as are wanted, all different.

Owns their making: words that are one token each, drawn with a seed; the first three count
the prompts, so that a client makes the next one in a microsecond. Knows no service.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tokenizers import Tokenizer

COUNTING_WORDS = 3
MIN_LETTERS = 3


@dataclass(frozen=True, slots=True)
class Prompts:
    """An endless list of prompts with the same number of tokens."""

    words: tuple[str, ...]
    """One token each."""
    tail: str
    """What all of them end with."""

    def prompt(self, number: int) -> str:
        """The prompt of that number; another one for every number below len(words) ** 3."""
        count = len(self.words)
        first, second, third = number // count**2 % count, number // count % count, number % count
        return f"{self.words[first]} {self.words[second]} {self.words[third]} {self.tail}"


def whole_words(tokenizer: Tokenizer) -> tuple[str, ...]:
    """Words of the tokenizer's own vocabulary that it reads as one token, in its order.

    As one token alone and after a space: to some tokenizers that is not the same. Takes the
    tokenizer over: its own padding is switched off.
    """
    tokenizer.no_padding()
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda item: item[1])
    words = [
        word
        for word, _ in vocabulary
        if len(word) >= MIN_LETTERS and word.isascii() and word.isalpha() and word.islower()
    ]
    pairs = tokenizer.encode_batch([f"{word} {word}" for word in words], add_special_tokens=False)
    return tuple(word for word, pair in zip(words, pairs, strict=True) if len(pair.ids) == 2)


def make(
    words: Sequence[str], tokens: int, count_tokens: Callable[[str], int], seed: int
) -> Prompts:
    """Prompts that `count_tokens` counts as `tokens`, its special tokens included.

    Raises ValueError where no number of words comes out at `tokens`.
    """
    extra = count_tokens(words[0]) - 1
    wanted = tokens - extra - COUNTING_WORDS
    if wanted < 1:
        raise ValueError(f"tokens: {tokens} is less than the least prompt has")
    draw = random.Random(seed)  # noqa: S311 (a workload, not a secret)
    prompts = Prompts(tuple(words), " ".join(draw.choices(words, k=wanted)))
    for number in (0, 1, len(words), len(words) ** 2, draw.randrange(len(words) ** 3)):
        found = count_tokens(prompts.prompt(number))
        if found != tokens:
            raise ValueError(f"tokens: a prompt made for {tokens} has {found}")
    return prompts
