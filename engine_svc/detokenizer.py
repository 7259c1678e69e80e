"""Turns an answer's tokens into text as they come, whole UTF-8 characters only.

Two forms of one thing: a byte-level vocabulary is a table, any other is asked to decode
again with what came before. `token_texts` has the choice and the table, `answers` keeps
one object an answer. Knows no stop strings.
"""

from __future__ import annotations

import codecs
from collections.abc import Callable, Sequence
from typing import Final, Protocol

Decode = Callable[[Sequence[int]], str]
"""Text of token ids, special tokens left out."""

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Detokenizer(Protocol):
    """The text of one answer."""

    @property
    def needs_every_token(self) -> bool:
        """Whether the next token's text depends on what has come."""

    def feed(self, token_id: int) -> str:
        """Text that is certain after this token."""

    def flush(self) -> str:
        """What is left at the end of the answer, broken characters included."""


class ByteDetokenizer:
    """For tokens that are bytes: a text is their concatenation, read as UTF-8."""

    __slots__ = ("_pending", "_pieces")

    def __init__(self, pieces: Sequence[bytes]) -> None:
        """`pieces` are the bytes of each token, by id."""
        self._pieces = pieces
        self._pending = b""

    @property
    def needs_every_token(self) -> bool:
        """Whether a character is open."""
        return bool(self._pending)

    def feed(self, token_id: int) -> str:
        """Text that is certain after this token."""
        read = self._pending + self._pieces[token_id]
        text, used = codecs.utf_8_decode(read, "replace", False)
        self._pending = read[used:]
        return text

    def flush(self) -> str:
        """What is left at the end of the answer, broken characters included."""
        rest, self._pending = self._pending, b""
        return rest.decode(errors="replace")


class ContextDetokenizer:
    """For any tokenizer: decodes the newest tokens together with a few before them."""

    __slots__ = ("_context_text", "_decode", "_read_until", "_tokens")

    def __init__(self, decode: Decode) -> None:
        self._decode = decode
        # Decoded together: context that is out already, then what is not.
        #   _tokens: [ context ........ | new ..... ]
        #              0    _read_until ^
        self._tokens: list[int] = []
        self._read_until = 0
        self._context_text = ""

    @property
    def needs_every_token(self) -> bool:
        """Always: each token is context to the next."""
        return True

    def feed(self, token_id: int) -> str:
        """Text that is certain after this token."""
        self._tokens.append(token_id)
        text = self._decode(self._tokens)
        if text.endswith(REPLACEMENT):
            return ""
        if text == self._context_text:
            # A token without text, such as end-of-sequence where it is ignored. A space that is
            # dropped at the beginning is none of these: it is the next one's context.
            if not self._decode([token_id, token_id]):
                del self._tokens[self._read_until :]
            return ""
        new = text[len(self._context_text) :]
        # The newest tokens stay as context: some tokenizers decode a token differently
        # at the beginning of a text.
        self._tokens = self._tokens[self._read_until :]
        self._read_until = len(self._tokens)
        self._context_text = self._decode(self._tokens)
        return new

    def flush(self) -> str:
        """What is left at the end of the answer, broken characters included."""
        rest = self._decode(self._tokens)[len(self._context_text) :]
        self._tokens, self._read_until, self._context_text = [], 0, ""
        return rest
