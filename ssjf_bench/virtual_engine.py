"""An engine in virtual time: which step ends when, and which jobs end with it.

Owns the engine's clock, its places and its KV tokens, and what it takes to hand a job over.
Between two events the batch is constant, so all steps up to the next event are taken at
once. Knows no queue and no policy; called by `simulator`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from heapq import heappop, heappush
from typing import Final

from ssjf_bench.step_time import StepTime

ROUNDING_STEPS: Final = 1e-9
"""An arrival this much of a step after a boundary is at the boundary: rounding."""


@dataclass(frozen=True, slots=True)
class Handover:
    """How long a place is empty between two jobs. Raises ValueError for a negative time.

    A real engine tells the gateway of an end, is sent the next job, and may have launched
    steps ahead meanwhile. The defaults are an engine that needs no time for any of it.
    """

    idle_ms: float = 0.0
    """From the decision until the first step begins, where nothing else runs."""
    busy_steps: float = 0.0
    """Steps of the others that a job misses, where others run; a fraction is met on average."""

    def __post_init__(self) -> None:
        if not all(0 <= value < math.inf for value in (self.idle_ms, self.busy_steps)):
            raise ValueError("handover: finite values of at least 0 wanted")


class VirtualEngine:
    """Runs jobs, each named by a number; every step gives each of them one token."""

    __slots__ = (
        *(
            "_context",
            "_context_token_s",
            "_contexts",
            "_decode_s",
            "_ends",
            "_entering",
            "_first_tokens",
            "_handover",
        ),
        *("_owed_steps", "_prefill_s", "_step", "_step_time"),
        *("kv_free", "now_s", "places_free"),
    )

    def __init__(
        self,
        step_time: StepTime,
        places: int,
        kv_tokens: int,
        handover: Handover = Handover(),
    ) -> None:
        self._step_time = step_time
        self._handover = handover
        self._step = 0
        self._ends: list[tuple[int, int]] = []  # (step, job) of the last token
        # (step, job, prompt tokens, output tokens) of jobs handed over, by the step they join
        self._entering: list[tuple[int, int, int, int]] = []
        self._decode_s = [step_time.decode_s(running) for running in range(places + 1)]
        self._context_token_s = step_time.context_token_ms * 1e-3
        self._context = 0  # what the batch looks back on in the next step; 0 where it costs nothing
        self._contexts: dict[int, int] = {}  # by job: what it will have looked back on at its end
        self._owed_steps = 0.0
        self._prefill_s = 0.0
        self._first_tokens: list[tuple[int, float]] = []
        self.now_s = 0.0
        """The time, always between two steps."""
        self.places_free = places
        """Jobs that may start."""
        self.kv_free = kv_tokens
        """KV tokens that are not reserved."""

    @property
    def running(self) -> int:
        """Jobs that have a place."""
        return len(self._ends) + len(self._entering)

    def start(self, job: int, prompt_tokens: int, output_tokens: int, kv_tokens: int) -> None:
        """A job gets a place, and joins the batch as soon as it has been handed over."""
        joins = self._step + self._missed_steps()
        heappush(self._entering, (joins, job, prompt_tokens, output_tokens))
        self.places_free -= 1
        self.kv_free -= kv_tokens

    def release(self, kv_tokens: int) -> None:
        """A job that has ended gives its place and its KV tokens back."""
        self.places_free += 1
        self.kv_free += kv_tokens

    def first_tokens(self) -> list[tuple[int, float]]:
        """(job, time) of the first tokens since the last call."""
        found, self._first_tokens = self._first_tokens, []
        return found

    def run(self, until_s: float) -> list[int]:
        """Runs until jobs end or join or, if that is earlier, to the first step's end at or after
        `until_s`; at least one step. Returns the jobs that have ended, some job running.
        """
        if self._entering:
            self._join()
        ends = self._ends
        step_s = self._decode_s[len(ends)] + self._context * self._context_token_s
        steps = ends[0][0] - self._step
        if self._entering:
            steps = min(steps, self._entering[0][0] - self._step)
        if until_s < math.inf:
            seconds = until_s - self.now_s - self._prefill_s
            wanted = self._steps_in(seconds, step_s) if self._context_token_s else seconds / step_s
            steps = min(steps, max(1, math.ceil(wanted - ROUNDING_STEPS)))
        self._step += steps
        self.now_s += steps * step_s + self._prefill_s
        self._prefill_s = 0.0
        if self._context_token_s:
            self.now_s += self._grow(steps)
        done = []
        while ends and ends[0][0] <= self._step:
            done.append(heappop(ends)[1])
        if self._context_token_s:
            self._context -= sum(map(self._contexts.pop, done))
        return done

    def stop(self) -> dict[int, int]:
        """Takes every job out of the batch; returns the tokens that each still has to make."""
        left = {job: end - self._step for end, job in self._ends}
        self._ends.clear()
        return left

    def idle_until(self, time_s: float) -> None:
        """Nothing runs until then."""
        self.now_s = max(self.now_s, time_s)

    def _grow(self, steps: int) -> float:
        """Each step has added a token a sequence; seconds that this made the steps longer."""
        running = len(self._ends)
        self._context += steps * running
        more_tokens = running * steps * (steps - 1) / 2
        return self._context_token_s * more_tokens

    def _steps_in(self, seconds: float, step_s: float) -> float:
        """Growing steps that take so long, the next one `step_s`, as a fraction."""
        if seconds <= 0:
            return 0.0
        growth_s = 0.5 * self._context_token_s * len(self._ends)
        linear_s = step_s - growth_s
        root = math.sqrt(linear_s * linear_s + 4 * growth_s * seconds)
        return 2 * seconds / (linear_s + root)

    def _missed_steps(self) -> int:
        if not self._ends:
            return 0
        self._owed_steps += self._handover.busy_steps
        missed = int(self._owed_steps)
        self._owed_steps -= missed
        return missed

    def _join(self) -> None:
        """Those whose step has come; all that were handed over where nothing else runs."""
        entering, ends = self._entering, self._ends
        idle = not ends
        if idle:
            self.now_s += self._handover.idle_ms * 1e-3
        joined, prompts = [], 0
        while entering and (idle or entering[0][0] <= self._step):
            _, job, prompt_tokens, output_tokens = heappop(entering)
            heappush(ends, (self._step + output_tokens, job))
            joined.append(job)
            prompts += prompt_tokens
            if self._context_token_s:
                self._contexts[job] = prompt_tokens + output_tokens
                self._context += prompt_tokens
        step_s = self._decode_s[len(ends)] + self._context * self._context_token_s
        self._prefill_s = self._step_time.prefill_s(prompts)
        first_s = self.now_s + self._prefill_s + step_s
        self._first_tokens += [(job, first_s) for job in joined]
