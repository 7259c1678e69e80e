"""Turns a sequence's tokens into text as they come, and finds its stop strings.

Text is given out once it is certain: not in the middle of a UTF-8 character, and not
where a stop string may be beginning. One object a running sequence, used by `engine`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

Decode = Callable[[Sequence[int]], str]
"""Text of token ids, special tokens left out."""

REPLACEMENT: Final = "\N{REPLACEMENT CHARACTER}"


class Detokenizer:
    """The text of one answer."""

    def __init__(self, decode: Decode, stop: tuple[str, ...] = ()) -> None:
        self._decode = decode
        self._stop = stop
        # Decoded together: context that is out already, then what is not.
        #   _tokens: [ context ........ | new ..... ]
        #              0    _read_until ^
        self._tokens: list[int] = []
        self._read_until = 0
        self._context_text = ""
        self._held = ""

    def feed(self, token_id: int, *, may_stop: bool = True) -> tuple[str, str | None]:
        """Text that is certain after this token, and the stop string that ends it, if one does.

        `may_stop` False lets stop strings pass as ordinary text.
        """
        self._tokens.append(token_id)
        self._held += self._new_text()
        if not (may_stop and self._stop):
            return self._give(len(self._held)), None
        found = self._first_stop()
        if found is not None:
            start, stop = found
            text, self._held = self._held[:start], ""
            return text, stop
        return self._give(len(self._held) - self._beginning_of_stop()), None

    def flush(self) -> str:
        """What is left at the end of the answer, broken characters included."""
        rest = self._decode(self._tokens)[len(self._context_text) :]
        self._tokens, self._read_until, self._context_text = [], 0, ""
        return self._give(len(self._held)) + rest

    def _give(self, characters: int) -> str:
        text, self._held = self._held[:characters], self._held[characters:]
        return text

    def _new_text(self) -> str:
        text = self._decode(self._tokens)
        if text.endswith(REPLACEMENT):
            return ""
        if text == self._context_text:
            # A token without text, such as end-of-sequence where it is ignored.
            del self._tokens[self._read_until :]
            return ""
        new = text[len(self._context_text) :]
        # The newest tokens stay as context: some tokenizers decode a token differently
        # at the beginning of a text.
        self._tokens = self._tokens[self._read_until :]
        self._read_until = len(self._tokens)
        self._context_text = self._decode(self._tokens)
        return new

    def _first_stop(self) -> tuple[int, str] | None:
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        return min(found, key=lambda hit: (hit[0], -len(hit[1])), default=None)

    def _beginning_of_stop(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        longest = min(len(self._held), max(map(len, self._stop)) - 1)
        for length in range(longest, 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
