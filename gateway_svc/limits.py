"""The ranges of every request field, in one table.

`translate` checks requests against it. The comments of `sampling.proto` say the same to
clients: change both.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

MAX_PROMPT_BYTES: Final = 1024 * 1024
MAX_CHAT_MESSAGES: Final = 1024
MAX_STOPS: Final = 16
MAX_STOP_BYTES: Final = 256
MAX_STOP_TOKEN_IDS: Final = 64
MAX_LOGIT_BIASES: Final = 1024
MAX_LOGPROBS: Final = 20
MAX_BENCHMARK_PAYLOAD_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class Range:
    """A closed interval, open below where `above` is set."""

    low: float
    high: float
    above: bool = False

    def problem(self, value: float) -> str | None:
        """What is wrong with `value`, with what would be right; None where it is in range."""
        inside = self.low < value <= self.high if self.above else self.low <= value <= self.high
        if math.isfinite(value) and inside:
            return None
        return f"must be in {'(' if self.above else '['}{self.low:g}, {self.high:g}], is {value:g}"


SAMPLING: Final[dict[str, Range]] = {
    "temperature": Range(0, 2),
    "top_p": Range(0, 1, above=True),
    "min_p": Range(0, 1),
    "repetition_penalty": Range(0, 2, above=True),
    "presence_penalty": Range(-2, 2),
    "frequency_penalty": Range(-2, 2),
    "logprobs": Range(0, MAX_LOGPROBS),
}
LOGIT_BIAS: Final = Range(-100, 100)
WATCH_INTERVAL_MS: Final = Range(50, 60_000)
DELTA_INTERVAL_MS: Final = Range(0, 60_000)
