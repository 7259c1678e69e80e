"""What stands around the messages of a conversation: one class a family of models.

Owns the special ids of both forms, and where the LLM's own id stands in a row. Knows nothing
of cutting and of prompts' texts. Pure; called by `encoder`.

    bert: [CLS] (llm) (mark) message [SEP] … (mark) last message [SEP]
    chat: <|im_start|> role ↵ message <|im_end|> ↵ … <|im_start|> assistant ↵

In a chat the LLM's number takes the place of the first <|im_start|>: the network's head
reads it there, the backbone reads <|im_start|> all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, Protocol

from tokenizers import Tokenizer

Layout = Literal["bert", "chat"]
Marks = Literal["none", "role", "role-length"]

UNKNOWN_LLM = 0
"""Number that stands for an LLM that training never saw; those seen have 1, 2, …"""
FIRST_MARK = 900
"""Number of BERT's first [unused…] token that marks a message; LLMs have those below."""
ROLES = ("user", "assistant", "system", "tool")
LENGTH_CLASSES = 16
"""Marks of a role: messages of 0, 1, 2-3, 4-7, … characters; the last is open."""


class Surroundings(Protocol):
    """The ids that a form puts around messages."""

    llm_position: int
    """Where a row has its LLM's token."""
    llm_tokens: Mapping[str, int]
    """Of the LLMs that are told apart."""
    unknown_llm_token: int
    """Of all other LLMs."""
    unread_llm_token: int
    """What a backbone reads in the LLM's place that is not to know it."""
    closing: Sequence[int]
    """What ends a message."""
    ending: Sequence[int]
    """What follows the last message."""

    def prefix(self, llm: str) -> list[int]:
        """What stands before the conversation."""

    def opening(self, role: str, content: str) -> list[int]:
        """What begins a message."""


class BertSurroundings:
    """WordPiece's markers; LLMs and marks are [unused…] tokens, whose vectors are learnt."""

    llm_position: int = 1
    llm_tokens: Mapping[str, int]
    closing: Sequence[int]
    ending: Sequence[int] = ()

    def __init__(self, tokenizer: Tokenizer, llms: Sequence[str], marks: Marks) -> None:
        self._first = id_of(tokenizer, "[CLS]")
        self.closing = (id_of(tokenizer, "[SEP]"),)
        self.unknown_llm_token = id_of(tokenizer, f"[unused{UNKNOWN_LLM}]")
        self.unread_llm_token = self.unknown_llm_token
        self.llm_tokens = {
            name: id_of(tokenizer, f"[unused{number}]")
            for number, name in enumerate(llms, start=UNKNOWN_LLM + 1)
        }
        self._with_length = marks == "role-length"
        self._marks = {
            role: [
                id_of(tokenizer, f"[unused{FIRST_MARK + number * LENGTH_CLASSES + length}]")
                for length in range(LENGTH_CLASSES)
            ]
            for number, role in enumerate(ROLES)
            if marks != "none"
        }

    def prefix(self, llm: str) -> list[int]:
        """[CLS] and, where LLMs are told apart, the LLM's token."""
        if not self.llm_tokens:
            return [self._first]
        return [self._first, self.llm_tokens.get(llm, self.unknown_llm_token)]

    def opening(self, role: str, content: str) -> list[int]:
        """The message's mark, if there are any."""
        if not self._marks:
            return []
        length = min(len(content).bit_length(), LENGTH_CLASSES - 1)
        return [self._marks[_known(role)][length * self._with_length]]


class ChatSurroundings:
    """ChatML, the form in which SmolLM2 and many others were taught to answer."""

    llm_position: int = 0
    llm_tokens: Mapping[str, int]
    closing: Sequence[int]
    ending: Sequence[int]

    def __init__(self, tokenizer: Tokenizer, llms: Sequence[str]) -> None:
        start, end = (id_of(tokenizer, name) for name in ("<|im_start|>", "<|im_end|>"))
        # What users write is text: special tokens' names in it stay letters.
        tokenizer.encode_special_tokens = True

        def ids(text: str) -> list[int]:
            return list(tokenizer.encode(text, add_special_tokens=False).ids)

        self.unread_llm_token = start
        self._openings = {role: ids(f"{role}\n") for role in ROLES}
        self.closing = (end, *ids("\n"), start)
        self.ending = self._openings["assistant"]
        self.unknown_llm_token = UNKNOWN_LLM
        self.llm_tokens = {name: number for number, name in enumerate(llms, start=UNKNOWN_LLM + 1)}

    def prefix(self, llm: str) -> list[int]:
        """The first message's <|im_start|>, or the LLM's number in its place."""
        if not self.llm_tokens:
            return [self.unread_llm_token]
        return [self.llm_tokens.get(llm, self.unknown_llm_token)]

    def opening(self, role: str, content: str) -> list[int]:  # noqa: ARG002
        """Who wrote the message."""
        return self._openings[_known(role)]


def id_of(tokenizer: Tokenizer, token: str) -> int:
    """A token's id. Raises ValueError where the tokenizer has none such."""
    found = tokenizer.token_to_id(token)
    if found is None:
        raise ValueError(f"the tokenizer has no {token} token")
    return int(found)


def _known(role: str) -> str:
    return role if role in ROLES else "user"
