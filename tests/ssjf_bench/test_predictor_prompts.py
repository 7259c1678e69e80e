from __future__ import annotations

import pytest
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE, WordLevel

from ssjf_bench.predictor_prompts import make, whole_words

WORDS = tuple(f"w{chr(97 + n)}{chr(97 + m)}" for n in range(5) for m in range(5))


def count_with_two_special_tokens(text: str) -> int:
    return len(text.split()) + 2


def test_every_prompt_has_the_tokens_asked_for() -> None:
    prompts = make(WORDS, 20, count_with_two_special_tokens, seed=1)
    assert {count_with_two_special_tokens(prompts.prompt(n)) for n in range(0, 15_000, 7)} == {20}


def test_prompts_are_all_different() -> None:
    prompts = make(WORDS, 20, count_with_two_special_tokens, seed=1)
    assert len({prompts.prompt(number) for number in range(len(WORDS) ** 3)}) == len(WORDS) ** 3


def test_the_seed_decides() -> None:
    first, again, other = (
        make(WORDS, 20, count_with_two_special_tokens, seed).prompt(0) for seed in (1, 1, 2)
    )
    assert first == again != other


def test_fewer_tokens_than_the_least_prompt_are_refused() -> None:
    with pytest.raises(ValueError, match="tokens: 5 is less"):
        make(WORDS, 5, count_with_two_special_tokens, seed=1)


def test_words_that_are_not_one_token_are_noticed() -> None:
    with pytest.raises(ValueError, match="a prompt made for 20 has"):
        make(WORDS, 20, lambda text: len(text) // 3 + 1, seed=1)


def test_words_are_whole_and_lower_case() -> None:
    words = ("[UNK]", "horse", "##ing", "ox", "Zoo", "cart", "café")
    model = WordLevel({word: number for number, word in enumerate(words)}, words[0])
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    assert whole_words(tokenizer) == ("horse", "cart")


def test_a_word_that_is_two_tokens_after_a_space_is_none() -> None:
    letters = {letter: number for number, letter in enumerate("cartsĠ")}
    merges = {"ca": 6, "rt": 7, "cart": 8, "Ġcart": 9, "st": 10, "ar": 11, "star": 12}
    steps = [("c", "a"), ("r", "t"), ("ca", "rt"), ("Ġ", "cart")]
    steps += [("Ġ", "s"), ("s", "t"), ("a", "r"), ("st", "ar")]
    tokenizer = Tokenizer(BPE(letters | merges | {"Ġs": 13}, steps))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    assert whole_words(tokenizer) == ("cart",)
