"""How fast output comes: lately, and while there is work.

Exponentially forgotten counts. The rate while there is work is what a wait is
estimated from: an hour without requests does not make an engine slow. Pure; called by
the dispatcher with the time passed in.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

# After this many seconds a count weighs 1/e.
MEMORY_S = 10.0
BUSY_MEMORY_S = 60.0
# Steps further apart than this have a pause between them that was no work.
LONGEST_STEP_S = 5.0


@dataclass(slots=True)
class TokenRate:
    """Tokens a second of one source; `pause` where it has run out of work."""

    _recent_tokens: float = 0.0
    _recent_s: float = 0.0
    _busy_tokens: float = 0.0
    _busy_s: float = 0.0
    _last_s: float | None = None

    def add(self, tokens: int, now_s: float) -> None:
        """So many tokens have come now, in the time since the last ones."""
        self._recent_tokens = self._recent(now_s) + tokens
        self._recent_s = now_s
        if self._last_s is not None:
            took_s = min(now_s - self._last_s, LONGEST_STEP_S)
            keep = math.exp(-took_s / BUSY_MEMORY_S)
            self._busy_tokens = self._busy_tokens * keep + tokens
            self._busy_s = self._busy_s * keep + took_s
        self._last_s = now_s

    def pause(self) -> None:
        """Nothing runs: the time until the next tokens is not counted as work."""
        self._last_s = None

    def recent(self, now_s: float) -> float:
        """Tokens a second over about the last MEMORY_S seconds, pauses included."""
        return self._recent(now_s) / MEMORY_S

    def busy(self) -> float:
        """Tokens a second while there was work; 0 where that is not known yet."""
        return self._busy_tokens / self._busy_s if self._busy_s > 0 else 0.0

    def _recent(self, now_s: float) -> float:
        return self._recent_tokens * math.exp(-(now_s - self._recent_s) / MEMORY_S)
