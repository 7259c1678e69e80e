"""Prompt and earlier turns to token ids: the tail that the proxy model reads.

Owns the tail rule (SSJF paper, section 3: the end of the input says most about the
answer) and the separators between turns. Knows nothing of batches, grpc or ONNX.
Called by the service, in a thread, and by training, so both see the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

from tokenizers import Tokenizer

# English has 4-5 characters a token. With four times that a tail is full in practice,
# and a prompt of 1 MiB costs no more than one of 16 KiB.
CHARACTERS_A_TOKEN = 20


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier message of the conversation."""

    role: str
    """system, user or assistant."""
    content: str


@dataclass(frozen=True, slots=True)
class PromptText:
    """What a prediction is made from."""

    prompt: str
    """The last user message."""
    turns: tuple[Turn, ...] = ()
    """The messages before it, oldest first."""


class Encoder:
    """Encodes with a WordPiece tokenizer, keeping the last tokens."""

    def __init__(self, tokenizer: Tokenizer, max_input_tokens: int) -> None:
        """Takes the tokenizer over: its own truncation and padding are switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._tokenizer = tokenizer
        self._max_input_tokens = max_input_tokens
        self._first = _id_of(tokenizer, "[CLS]")
        self._separator = _id_of(tokenizer, "[SEP]")

    def encode(self, texts: Sequence[PromptText]) -> list[list[int]]:
        """Ids of each text: [CLS] tail [SEP], at most `max_input_tokens` of them."""
        messages = [self._tail_messages(text) for text in texts]
        encodings = self._tokenizer.encode_batch_fast(
            list(chain.from_iterable(messages)), add_special_tokens=False
        )
        ids = iter([encoding.ids for encoding in encodings])
        return [self._join([next(ids) for _ in group]) for group in messages]

    def _tail_messages(self, text: PromptText) -> list[str]:
        """The last messages, oldest first, that can still have a token in the tail."""
        room = self._max_input_tokens * CHARACTERS_A_TOKEN
        kept: list[str] = []
        for content in (text.prompt, *(turn.content for turn in reversed(text.turns))):
            kept.append(content[-room:])
            room -= len(content)
            if room <= 0:
                break
        return kept[::-1]

    def _join(self, messages: list[list[int]]) -> list[int]:
        """Messages with [SEP] between them, cut to the tail."""
        joined: list[int] = []
        for ids in messages:
            joined += ids
            joined.append(self._separator)
        return [self._first, *joined[-(self._max_input_tokens - 1) :]]


def load_encoder(tokenizer_file: Path, max_input_tokens: int) -> Encoder:
    """The encoder of a `tokenizer.json`."""
    return Encoder(Tokenizer.from_file(str(tokenizer_file)), max_input_tokens)


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token} token")
    return found
