"""Prompt and earlier turns to token ids: what the proxy model reads of a conversation.

Owns the input's form: the tail (SSJF paper, section 3: the end of the input says most
about the answer) or head and tail, the separators between turns, and the LLM's name.
Knows nothing of batches, grpc or ONNX. Called by the service, in a thread, and by
training, so both see the same ids.

    [CLS] (llm) (mark) turn [SEP] ... (mark) last message [SEP]
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, NamedTuple

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from predictor_svc.words import WordMemory

# English has 4-5 characters a token. With four times that a tail is full in practice,
# and a prompt of 1 MiB costs no more than one of 16 KiB.
CHARACTERS_A_TOKEN = 20
UNKNOWN_LLM = 0
"""Number of the [unused…] token that stands for an LLM that training never saw."""
FIRST_MARK = 900
"""Number of the first [unused…] token that marks a message; LLMs have those below."""
ROLES = ("user", "assistant", "system", "tool")
LENGTH_CLASSES = 16
"""Marks of a role: messages of 0, 1, 2-3, 4-7, … characters; the last is open."""


class InputForm(BaseModel):
    """What of a conversation the network reads. Stored with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    max_tokens: int = Field(ge=8, le=8192)
    """Token ids at most, special ones included: the last ones of the conversation."""
    head_tokens: int = Field(default=0, ge=0)
    """Ids kept from its beginning where it is longer than `max_tokens` (SSJF paper: 128)."""
    turns: bool = True
    """Whether the turns before the last message are read."""
    marks: Literal["none", "role", "role-length"] = "none"
    """Whether a token before each message tells who wrote it, and also about how long it is
    (powers of two of characters): how long the answers before were says much of the next."""
    llms: tuple[str, ...] = ()
    """LLMs told apart, each by a token after [CLS]; others share one. Empty: no such token."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> InputForm:
        if self.head_tokens > self.max_tokens - 3:
            raise ValueError("head_tokens: leaves no room for the tail")
        if len(set(self.llms)) != len(self.llms):
            raise ValueError("llms: a name stands twice")
        if len(self.llms) >= FIRST_MARK:
            raise ValueError(f"llms: at most {FIRST_MARK - 1} have a token of their own")
        return self


@dataclass(frozen=True, slots=True)
class Turn:
    """One earlier message of the conversation."""

    role: str
    """system, user or assistant (or tool, in training data)."""
    content: str


@dataclass(frozen=True, slots=True)
class PromptText:
    """What a prediction is made from."""

    prompt: str
    """The last user message."""
    turns: tuple[Turn, ...] = ()
    """The messages before it, oldest first."""
    llm: str = ""
    """The LLM that will answer; empty where it is not said."""


class _Message(NamedTuple):
    mark: list[int]
    """No token or one."""
    content: str


class Encoder:
    """Encodes with a WordPiece tokenizer, in one form."""

    def __init__(self, tokenizer: Tokenizer, form: InputForm) -> None:
        """Takes the tokenizer over: its own truncation and padding are switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._words = WordMemory(tokenizer)
        self.form = form
        self._first = _id_of(tokenizer, "[CLS]")
        self._separator = _id_of(tokenizer, "[SEP]")
        self.unknown_llm_token = _id_of(tokenizer, f"[unused{UNKNOWN_LLM}]")
        self._llms = {
            name: _id_of(tokenizer, f"[unused{number}]")
            for number, name in enumerate(form.llms, start=UNKNOWN_LLM + 1)
        }

        self._marks = {
            role: [
                _id_of(tokenizer, f"[unused{FIRST_MARK + number * LENGTH_CLASSES + length}]")
                for length in range(LENGTH_CLASSES)
            ]
            for number, role in enumerate(ROLES)
            if form.marks != "none"
        }

    @property
    def llm_tokens(self) -> tuple[int, ...]:
        """Token ids of the LLMs that have one of their own, in the form's order."""
        return tuple(self._llms.values())

    def encode(self, texts: Sequence[PromptText]) -> list[list[int]]:
        """Ids of each text, at most `form.max_tokens` of them."""
        prefixes = self._prefixes(texts)
        messages = [self._messages(text) for text in texts]
        contents = [message.content for message in chain.from_iterable(messages)]
        ids = iter(self._words.ids(contents))
        return [
            self._cut(prefix, [[*message.mark, *next(ids)] for message in group])
            for prefix, group in zip(prefixes, messages, strict=True)
        ]

    def _prefixes(self, texts: Sequence[PromptText]) -> list[list[int]]:
        """What stands before the conversation: [CLS] and the LLM."""
        if not self.form.llms:
            return [[self._first]] * len(texts)
        return [[self._first, self._llms.get(text.llm, self.unknown_llm_token)] for text in texts]

    def _messages(self, text: PromptText) -> list[_Message]:
        """The messages, oldest first, that can have a token in the head or the tail."""
        room = self.form.max_tokens * CHARACTERS_A_TOKEN
        earlier = text.turns if self.form.turns else ()
        messages = [self._message(turn.role, turn.content) for turn in earlier]
        messages.append(self._message("user", text.prompt))
        kept: list[_Message] = []
        for message in reversed(messages):
            kept.append(message._replace(content=message.content[-room:]))
            room -= len(message.content)
            if room <= 0:
                break
        else:
            return kept[::-1]
        if self.form.head_tokens:
            # Whatever lies between head and tail is cut away again in `_cut`.
            return self._beginning(messages) + kept[::-1]
        return kept[::-1]

    def _beginning(self, messages: Sequence[_Message]) -> list[_Message]:
        """The messages, the last of them cut, that the head's tokens are in."""
        room = self.form.head_tokens * CHARACTERS_A_TOKEN
        kept = []
        for message in messages:
            kept.append(message._replace(content=message.content[:room]))
            room -= len(message.content)
            if room <= 0:
                break
        return kept

    def _message(self, role: str, content: str) -> _Message:
        """The message with its mark, if there are any."""
        if self.form.marks == "none":
            return _Message([], content)
        known = role if role in ROLES else "user"
        length = min(len(content).bit_length(), LENGTH_CLASSES - 1)
        return _Message([self._marks[known][length * (self.form.marks == "role-length")]], content)

    def _cut(self, prefix: list[int], messages: list[list[int]]) -> list[int]:
        """Messages with [SEP] between them, cut to head and tail."""
        joined: list[int] = []
        for ids in messages:
            joined += ids
            joined.append(self._separator)
        room = self.form.max_tokens - len(prefix)
        if len(joined) <= room:
            return prefix + joined
        head = joined[: self.form.head_tokens]
        return prefix + head + joined[len(joined) - (room - len(head)) :]


def load_encoder(tokenizer_file: Path, form: InputForm) -> Encoder:
    """The encoder of a `tokenizer.json`."""
    return Encoder(Tokenizer.from_file(str(tokenizer_file)), form)


def _id_of(tokenizer: Tokenizer, token: str) -> int:
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token} token")
    return found
