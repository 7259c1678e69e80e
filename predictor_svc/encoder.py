"""Prompt and earlier turns to token ids: what the proxy model reads of a conversation.

Owns what of it is read: the tail (SSJF paper, section 3: the end of the input says most
about the answer) or head and tail. What stands around the messages is `layouts`'. Knows
nothing of batches, grpc or ONNX. Called by the service, in a thread, and by training, so
both see the same ids.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import NamedTuple

import pydantic
from pydantic import BaseModel, ConfigDict, Field
from tokenizers import Tokenizer

from predictor_svc.layouts import (
    FIRST_MARK,
    BertSurroundings,
    ChatSurroundings,
    Layout,
    Marks,
    Surroundings,
)
from predictor_svc.llm_names import Reading, read
from predictor_svc.words import WordMemory

# English has 4-5 characters a token. With four times that a tail is full in practice,
# and a prompt of 1 MiB costs no more than one of 16 KiB.
CHARACTERS_A_TOKEN = 20


class InputForm(BaseModel):
    """What of a conversation the network reads. Stored with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layout: Layout = "bert"
    """What stands around the messages: BERT's markers, or a chat's."""
    max_tokens: int = Field(ge=8, le=8192)
    """Token ids at most, special ones included: the last ones of the conversation."""
    head_tokens: int = Field(default=0, ge=0)
    """Ids kept from its beginning where it is longer than `max_tokens` (SSJF paper: 128)."""
    turns: bool = True
    """Whether the turns before the last message are read."""
    marks: Marks = "none"
    """Whether a token before each message tells who wrote it, and also about how long it is
    (powers of two of characters): how long the answers before were says much of the next.
    A chat names who wrote each message, no more and no less: "role"."""
    llms: tuple[str, ...] = ()
    """LLMs told apart, each by a token at a place of its own. Empty: none are."""
    families: tuple[str, ...] = ()
    """Families of them that have a token, too, for members that training never saw. An LLM of
    none is read as a member of its family, or else by the one token for all others."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> InputForm:
        if self.head_tokens > self.max_tokens - 3:
            raise ValueError("head_tokens: leaves no room for the tail")
        if len(set(self.named)) != len(self.named):
            raise ValueError("llms: a name stands twice")
        if len(self.named) >= FIRST_MARK:
            raise ValueError(f"llms: at most {FIRST_MARK - 1} have a token of their own")
        if self.layout == "chat" and self.marks != "role":
            raise ValueError("marks: a chat has those of its roles")
        return self

    @property
    def named(self) -> tuple[str, ...]:
        """Everything that has a token in the LLM's place: LLMs, then families."""
        return self.llms + self.families

    def read_llm(self, name: str) -> Reading:
        """What the network reads for an LLM's name."""
        return read(name, self.llms, self.families)


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
    opening: list[int]
    content: str


class Encoder:
    """Encodes with a model's own tokenizer, in one form."""

    def __init__(self, tokenizer: Tokenizer, form: InputForm) -> None:
        """Takes the tokenizer over: its own truncation and padding are switched off."""
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._words = WordMemory(tokenizer)
        self.form = form
        self._around = _surroundings(tokenizer, form)

    @property
    def llm_position(self) -> int:
        """Where a row has its LLM's token, if LLMs are told apart."""
        return self._around.llm_position

    @property
    def llm_tokens(self) -> tuple[int, ...]:
        """Token ids of `form.named`, in its order."""
        return tuple(self._around.llm_tokens.values())

    @property
    def unknown_llm_token(self) -> int:
        """Token id of every other LLM."""
        return self._around.unknown_llm_token

    @property
    def unread_llm_token(self) -> int:
        """What a backbone reads in the LLM's place that is not to know it."""
        return self._around.unread_llm_token

    def encode(self, texts: Sequence[PromptText]) -> list[list[int]]:
        """Ids of each text, at most `form.max_tokens` of them."""
        messages = [self._messages(text) for text in texts]
        contents = [message.content for message in chain.from_iterable(messages)]
        ids = iter(self._words.ids(contents))
        return [
            self._cut(
                self._around.prefix(self.form.read_llm(text.llm).name),
                [[*message.opening, *next(ids)] for message in group],
            )
            for text, group in zip(texts, messages, strict=True)
        ]

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
        return _Message(self._around.opening(role, content), content)

    def _cut(self, prefix: list[int], messages: list[list[int]]) -> list[int]:
        """Messages with what ends each, cut to head and tail."""
        joined: list[int] = []
        for ids in messages:
            joined += ids
            joined += self._around.closing
        joined += self._around.ending
        room = self.form.max_tokens - len(prefix)
        if len(joined) <= room:
            return prefix + joined
        head = joined[: self.form.head_tokens]
        return prefix + head + joined[len(joined) - (room - len(head)) :]


def load_encoder(tokenizer_file: Path, form: InputForm) -> Encoder:
    """The encoder of a `tokenizer.json`."""
    return Encoder(Tokenizer.from_file(str(tokenizer_file)), form)


def _surroundings(tokenizer: Tokenizer, form: InputForm) -> Surroundings:
    if form.layout == "chat":
        return ChatSurroundings(tokenizer, form.named)
    return BertSurroundings(tokenizer, form.named, form.marks)
