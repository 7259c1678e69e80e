"""What the sequences of a step ask of the sampler, as the host knows it.

Pure. Values lie on the device; the plan only says which computations nobody needs. A
plan that says more than a step's sequences ask for costs time and changes no result, so
one plan for all that run is enough. `runner` keeps a `PlanTally`, `sampler` reads plans.
"""

from __future__ import annotations

import functools
import operator
from collections import Counter
from dataclasses import dataclass

from engine_svc.params import SamplingParams


@dataclass(frozen=True, slots=True)
class Plan:
    """The union of what some sequences ask for; `Plan()` is an all-greedy step."""

    draws: bool = False
    """Some temperature is above 0."""
    filters: bool = False
    """Some drawn sequence has top_k, top_p or min_p."""
    penalties: bool = False
    """Earlier tokens change some sequence's logits."""
    biases: bool = False
    """Some sequence has a logit bias."""
    ends: bool = False
    """Some sequence has min_tokens, before which its ends are forbidden."""
    logprobs: int | None = None
    """Most alternatives that are reported; None where no sequence wants log-probabilities."""

    def __or__(self, other: Plan) -> Plan:
        """What either asks for."""
        counts = [count for count in (self.logprobs, other.logprobs) if count is not None]
        return Plan(
            draws=self.draws or other.draws,
            filters=self.filters or other.filters,
            penalties=self.penalties or other.penalties,
            biases=self.biases or other.biases,
            ends=self.ends or other.ends,
            logprobs=max(counts, default=None),
        )

    @property
    def rules(self) -> bool:
        """Whether logits change before a token is chosen."""
        return self.penalties or self.biases or self.ends

    @property
    def capturable(self) -> bool:
        """Whether the step may be replayed from a CUDA graph: no table of it can move."""
        return not self.rules and self.logprobs is None


def plan_of(params: SamplingParams) -> Plan:
    """What one sequence asks for."""
    return Plan(
        draws=not params.greedy,
        filters=params.filtered and not params.greedy,
        penalties=params.penalised,
        biases=bool(params.logit_bias),
        ends=params.min_tokens > 0,
        logprobs=params.logprobs,
    )


class PlanTally:
    """The plan of a set of sequences that come and go."""

    def __init__(self) -> None:
        self._counts: Counter[Plan] = Counter()
        self._plan = Plan()

    @property
    def plan(self) -> Plan:
        """What those that are in ask for."""
        return self._plan

    def add(self, params: SamplingParams) -> None:
        """A sequence starts."""
        own = plan_of(params)
        self._counts[own] += 1
        self._plan |= own

    def remove(self, params: SamplingParams) -> None:
        """A sequence that was added ends."""
        own = plan_of(params)
        self._counts[own] -= 1
        if not self._counts[own]:
            del self._counts[own]
            self._plan = functools.reduce(operator.or_, self._counts, Plan())
