"""One sequence: its tokens, what it holds, and when its tokens end it.

Pure; it knows neither tensors nor text. The scheduler gives it a place and blocks,
the engine appends to it.
"""

from __future__ import annotations

import enum
from collections.abc import Set
from dataclasses import dataclass, field

from engine_svc.params import SamplingParams


class State(enum.Enum):
    """Where a sequence is in its life."""

    WAITING = enum.auto()
    RUNNING = enum.auto()
    ENDED = enum.auto()


class FinishReason(enum.Enum):
    """Why an answer ended well."""

    EOS = enum.auto()
    STOP = enum.auto()
    LENGTH = enum.auto()


class FailureCode(enum.Enum):
    """Why a sequence failed."""

    INVALID = enum.auto()
    KV_EXHAUSTED = enum.auto()
    NUMERIC = enum.auto()
    INTERNAL = enum.auto()


@dataclass(frozen=True, slots=True)
class Ending:
    """How an answer ended well."""

    reason: FinishReason
    stop_token_id: int | None = None
    stop_string: str | None = None


@dataclass(slots=True, eq=False)
class Sequence:
    """A prompt and the answer so far; changes as it runs."""

    sequence_id: int
    prompt: tuple[int, ...]
    params: SamplingParams
    request_id: str = ""
    """For logs only."""
    forced_tokens: int | None = None
    """Exact length of the answer, in benchmarks."""
    cache_salt: str = ""
    """Prompts share KV cache only under the same salt."""
    kv_reservation_tokens: int | None = None
    """Tokens of KV cache set aside at the start; None for all that it may come to have."""
    output: list[int] = field(default_factory=list)
    state: State = State.WAITING
    place: int = -1
    """Row of the batch's tables that it has while running."""
    blocks: tuple[int, ...] = ()
    """Blocks of the KV cache, in the order of its tokens."""
    first_step_s: float = 0.0
    """Monotonic time at which its first step began."""
    first_token_s: float = 0.0
    """Monotonic time of its first token."""

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.output)

    @property
    def reserved_tokens(self) -> int:
        """Tokens that it may come to have: what it holds KV cache for."""
        return len(self.prompt) + self.params.max_tokens

    @property
    def last_token(self) -> int:
        """The newest token, of the prompt while there is no answer."""
        return self.output[-1] if self.output else self.prompt[-1]

    @property
    def may_stop(self) -> bool:
        """Whether the tokens so far allow an end other than by length."""
        return self.forced_tokens is None and len(self.output) >= self.params.min_tokens

    def ending(self, eos_token_ids: Set[int]) -> Ending | None:
        """How the newest token of the answer ends it, or None where it goes on."""
        token = self.output[-1]
        if self.may_stop:
            if token in self.params.stop_token_ids:
                return Ending(FinishReason.STOP, stop_token_id=token)
            if token in eos_token_ids and not self.params.ignore_eos:
                return Ending(FinishReason.EOS, stop_token_id=token)
        limit = self.params.max_tokens if self.forced_tokens is None else self.forced_tokens
        return Ending(FinishReason.LENGTH) if len(self.output) >= limit else None
