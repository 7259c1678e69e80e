"""An engine in virtual time: which step ends when, and which jobs end with it.

Owns the engine's clock, its places and its KV tokens. Between two events the batch is
constant, so all steps up to the next event are taken at once. Knows no queue and no
policy; called by `simulator`.
"""

from __future__ import annotations

import math
from heapq import heappop, heappush
from typing import Final

from ssjf_bench.step_time import StepTime

ROUNDING_STEPS: Final = 1e-9
"""An arrival this much of a step after a boundary is at the boundary: rounding."""


class VirtualEngine:
    """Runs jobs, each named by a number; every step gives each of them one token."""

    __slots__ = ("_ends", "_prefill_s", "_step", "_step_time", "kv_free", "now_s", "places_free")

    def __init__(self, step_time: StepTime, places: int, kv_tokens: int) -> None:
        self._step_time = step_time
        self._step = 0
        self._ends: list[tuple[int, int]] = []  # (step, job) of the last token
        self._prefill_s = 0.0
        self.now_s = 0.0
        """The time, always between two steps."""
        self.places_free = places
        """Jobs that may start."""
        self.kv_free = kv_tokens
        """KV tokens that are not reserved."""

    @property
    def running(self) -> int:
        """Jobs in the batch."""
        return len(self._ends)

    def start(self, job: int, prompt_tokens: int, output_tokens: int, kv_tokens: int) -> None:
        """A job joins the batch from the next step on."""
        heappush(self._ends, (self._step + output_tokens, job))
        self._prefill_s += self._step_time.prefill_s(prompt_tokens)
        self.places_free -= 1
        self.kv_free -= kv_tokens

    def release(self, kv_tokens: int) -> None:
        """A job that has ended gives its place and its KV tokens back."""
        self.places_free += 1
        self.kv_free += kv_tokens

    def next_token_s(self) -> float:
        """When the next step ends, which is when jobs that start now have their first token."""
        return self.now_s + self._prefill_s + self._step_time.decode_s(len(self._ends))

    def run(self, until_s: float) -> list[int]:
        """Runs until jobs end or, if that is earlier, to the first step's end at or after
        `until_s`; at least one step. Returns the jobs that have ended, the batch not empty.
        """
        ends = self._ends
        step_s = self._step_time.decode_s(len(ends))
        steps = ends[0][0] - self._step
        if until_s < math.inf:
            wanted = (until_s - self.now_s - self._prefill_s) / step_s
            steps = min(steps, max(1, math.ceil(wanted - ROUNDING_STEPS)))
        self._step += steps
        self.now_s += steps * step_s + self._prefill_s
        self._prefill_s = 0.0
        done = []
        while ends and ends[0][0] <= self._step:
            done.append(heappop(ends)[1])
        return done

    def stop(self) -> dict[int, int]:
        """Takes every job out of the batch; returns the tokens that each still has to make."""
        left = {job: end - self._step for end, job in self._ends}
        self._ends.clear()
        return left

    def idle_until(self, time_s: float) -> None:
        """Nothing runs until then."""
        self.now_s = max(self.now_s, time_s)
