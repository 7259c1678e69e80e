"""Finds the strings at which an answer is to end, across the borders of its tokens.

Text in which a stop string may be beginning is held back until it is certain. One
object an answer that has stop strings, used by `answers`. Pure.
"""

from __future__ import annotations


class StopStrings:
    """The stop strings of one answer, and what is held back for them."""

    def __init__(self, stop: tuple[str, ...]) -> None:
        """`stop` has at least one string, none of them empty."""
        self._stop = stop
        self._beginnings = frozenset(each[:length] for each in stop for length in range(len(each)))
        self._longest = max(map(len, stop)) - 1
        self._held = ""

    def feed(self, text: str, *, may_stop: bool = True) -> tuple[str, str | None]:
        """Text that is certain after this, and the stop string that ends the answer, if one does.

        `may_stop` False lets stop strings pass as ordinary text.
        """
        text = self._held + text
        self._held = ""
        if not may_stop:
            return text, None
        for stop in self._stop:
            if stop in text:
                return self._end(text)
        certain = len(text) - self._beginning(text)
        self._held = text[certain:]
        return text[:certain], None

    def flush(self) -> str:
        """What is held back, at the end of the answer."""
        held, self._held = self._held, ""
        return held

    def _end(self, text: str) -> tuple[str, str]:
        """The text before the first stop string, and the longest that begins there."""
        found = [(text.find(stop), -len(stop), stop) for stop in self._stop if stop in text]
        start, _, stop = min(found)
        return text[:start], stop

    def _beginning(self, text: str) -> int:
        """Length of the longest end of the text with which a stop string begins."""
        for length in range(min(len(text), self._longest), 0, -1):
            if text[-length:] in self._beginnings:
                return length
        return 0
