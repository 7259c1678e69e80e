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
        self._longest = max(map(len, stop))
        self._held = ""

    def feed(self, text: str, *, may_stop: bool = True) -> tuple[str, str | None]:
        """Text that is certain after this, and the stop string that ends the answer, if one does.

        `may_stop` False lets stop strings pass as ordinary text.
        """
        self._held += text
        if not may_stop:
            return self.flush(), None
        found = self._first()
        if found is not None:
            start, stop = found
            text, self._held = self._held[:start], ""
            return text, stop
        return self._give(len(self._held) - self._beginning()), None

    def flush(self) -> str:
        """What is held back, at the end of the answer."""
        return self._give(len(self._held))

    def _give(self, characters: int) -> str:
        text, self._held = self._held[:characters], self._held[characters:]
        return text

    def _first(self) -> tuple[int, str] | None:
        found = [(at, stop) for stop in self._stop if (at := self._held.find(stop)) >= 0]
        return min(found, key=lambda hit: (hit[0], -len(hit[1])), default=None)

    def _beginning(self) -> int:
        """Length of the longest end of the held text with which a stop string begins."""
        for length in range(min(len(self._held), self._longest - 1), 0, -1):
            if any(stop.startswith(self._held[-length:]) for stop in self._stop):
                return length
        return 0
