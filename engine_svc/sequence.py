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
    """Tokens of KV cache set aside at the start; None for all that it may come to have.
    One that outgrows them may have to give way and be read again."""
    output: list[int] = field(default_factory=list)
    state: State = State.WAITING
    arrival: int = -1
    """Number in the order in which the scheduler took sequences."""
    run: int = -1
    """Number of its latest start: a preempted sequence starts more than once."""
    place: int = -1
    """Row of the batch's tables that it has while running."""
    blocks: list[int] = field(default_factory=list)
    """Blocks of the KV cache, in the order of its tokens."""
    read_tokens: int = 0
    """Tokens of prompt and answer whose keys and values were found or scheduled to be read."""
    block_names: tuple[bytes, ...] | None = None
    """Names of the full blocks of what it has to read; None until they are needed."""
    cached_prompt_tokens: int = 0
    """Of its prompt, tokens that were found in the KV cache when it first started."""
    first_step_s: float = 0.0
    """Monotonic time at which its first step began."""
    first_token_s: float = 0.0
    """Monotonic time of its first token."""

    @property
    def length(self) -> int:
        """Tokens of prompt and answer."""
        return len(self.prompt) + len(self.output)

    @property
    def most_tokens(self) -> int:
        """Tokens that it may come to have."""
        return len(self.prompt) + self.params.max_tokens

    @property
    def reserved_tokens(self) -> int:
        """Tokens that it needs KV cache for in order to start: at least one more than it has."""
        if self.kv_reservation_tokens is None:
            return self.most_tokens
        return min(self.most_tokens, max(self.kv_reservation_tokens, self.length + 1))

    @property
    def limit_tokens(self) -> int:
        """Length at which the answer ends whatever its tokens are."""
        return self.params.max_tokens if self.forced_tokens is None else self.forced_tokens

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and answer so far."""
        return (*self.prompt, *self.output) if self.output else self.prompt

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
        return Ending(FinishReason.LENGTH) if len(self.output) >= self.limit_tokens else None
