"""The acceptance test of the forward pass: our greedy answers are transformers' own."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from engine_svc.assembly import build
from engine_svc.config import EngineSettings
from engine_svc.model.loading import LoadedModel

from .turns import Turns, make_sequence

NEW_TOKENS = 64
EOS = 2
PARAGRAPH = (
    "The harbour was quiet that morning. Two fishermen mended their nets, a dog slept in the "
    "sun, and nobody paid attention to the ship that had come in overnight. "
)
CHATS = [
    "Hi",
    "What is the capital of France?",
    "Write a haiku about rain.",
    "List the planets of the solar system in order.",
    "def fibonacci(n):",
    "Explain to a child why the sky is blue.",
    "1, 1, 2, 3, 5, 8, 13,",
    "Translate into German: the cat sits on the table.",
    "Grüße aus Köln! Was ist der Unterschied zwischen Fluss und Strom? 👋",
    f"Summarise in one sentence:\n\n{PARAGRAPH * 3}",
    f"Continue the story.\n\n{PARAGRAPH * 8}",
    "How do I boil an egg?",
]
RAW = [
    "Once",
    "The",
    "The quick brown fox",
    "import numpy as np\n",
    "In 1969, the first human being",
    "Dear Sir or Madam,\n\n",
    PARAGRAPH,
    PARAGRAPH * 14,
]


@pytest.fixture(scope="session")
def prompts(pretrained: Any, smollm2: LoadedModel) -> list[list[int]]:
    """From one token to several hundred."""
    chats = [smollm2.tokenizer.encode_prompt(text) for text in CHATS]
    return [*chats, *(pretrained(text).input_ids for text in RAW)]


@pytest.fixture(scope="session")
def expected(reference: Any, prompts: list[list[int]]) -> list[list[int]]:
    """What transformers' generate gives."""
    found: dict[int, list[int]] = {}
    by_length = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    # Two batches, so that the short prompts are not padded to the longest.
    for batch in (by_length[:-4], by_length[-4:]):
        answers = _generate(reference, [prompts[i] for i in batch])
        found.update(zip(batch, answers, strict=True))
    return [found[i] for i in range(len(prompts))]


def _generate(reference: Any, prompts: list[list[int]]) -> list[list[int]]:
    longest = max(map(len, prompts))
    padded = torch.tensor([[EOS] * (longest - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (longest - len(p)) + [1] * len(p) for p in prompts])
    answers = reference.generate(
        padded, attention_mask=mask, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=EOS
    )[:, longest:].tolist()
    return [a[: a.index(EOS) + 1] if EOS in a else a for a in answers]


def greedy_engine(smollm2: LoadedModel) -> Turns:
    settings = EngineSettings(device="cpu", max_sequences=len(CHATS) + len(RAW))
    return Turns(build(settings, smollm2))


@pytest.mark.timeout(300)
def test_prompts_decoded_together_get_the_tokens_of_transformers(
    smollm2: LoadedModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    assert len(prompts) >= 20
    assert min(map(len, prompts)) == 1
    assert max(map(len, prompts)) > 400
    turns = greedy_engine(smollm2)
    turns.start(*(make_sequence(i, p, max_tokens=NEW_TOKENS) for i, p in enumerate(prompts)))
    turns.until_idle()
    assert [turns.tokens(i) for i in range(len(prompts))] == expected


@pytest.mark.timeout(300)
def test_prompts_that_join_one_after_another_get_them_too(
    smollm2: LoadedModel, prompts: list[list[int]], expected: list[list[int]]
) -> None:
    some = [0, 1, 6, 12, 14, 18]
    turns = greedy_engine(smollm2)
    for i in some:
        turns.start(make_sequence(i, prompts[i], max_tokens=NEW_TOKENS))
        turns.turn(5)
    turns.until_idle()
    assert [turns.tokens(i) for i in some] == [expected[i] for i in some]
    assert turns.is_empty
