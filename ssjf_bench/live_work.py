"""The requests of a live evaluation: one draw for every run, and what warms up before it.

Pure: from a plan and its traffic to requests, the same that a simulator would get, with
prompts, turns and the lengths that are forced. Knows no service; called by
`ssjf bench live`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from ssjf_bench import live_capacity
from ssjf_bench.live_plan import Engine, Plan
from ssjf_bench.sim_run import Traffic
from ssjf_bench.workload import Request

LEAST_QUEUE: Final = 1024
OTHER_SEED: Final = 1_000_003
"""What a warm-up's draw is apart from the window's."""


@dataclass(frozen=True, slots=True)
class Work:
    """The requests of every run, and what came with them."""

    traffic: Traffic
    """Arrivals, seed and count."""
    requests: tuple[Request, ...]
    """In order of arrival, the same in every run."""
    warm_up: tuple[Request, ...]
    """As many as the largest warm-up takes."""

    @property
    def max_tokens(self) -> int:
        """The limit that every request names."""
        return self.requests[0].max_tokens

    @property
    def most_queued(self) -> int:
        """Requests that a gateway must take at once: a burst may be larger than a run."""
        largest = max(len(self.requests), live_capacity.BATCHES * len(self.warm_up))
        return max(LEAST_QUEUE, 2 * largest)

    def size(self, plan: Plan, engine: Engine) -> int:
        """Requests of one run, its warm-up included."""
        return len(self.requests) + plan.warm_up_requests(engine)


def held(work: Work, lengths: Mapping[str, int]) -> Work:
    """The same requests, their answers forced to these lengths by request id.

    The warm-up, of which nothing is measured, keeps its own.
    """
    requests = (replace(each, output_tokens=lengths[each.request_id]) for each in work.requests)
    return replace(work, requests=tuple(requests))


def work_of(plan: Plan, traffic: Traffic) -> Work:
    """The requests of a plan. Raises ValueError."""
    requests = traffic.requests(traffic.answered())
    most = max(plan.warm_up_requests(engine) for engine in plan.engines)
    # Other draws from the same prompts; under names of their own, since ids are unique.
    before = replace(traffic, seed=traffic.seed + OTHER_SEED, jobs=max(1, most))
    limit = requests[0].max_tokens
    warm_up = replace(before, max_tokens=limit).requests(before.answered())[:most]
    named = [replace(each, request_id=f"warm-up-{number}") for number, each in enumerate(warm_up)]
    return Work(traffic, _sampled(plan, requests), _sampled(plan, named))


def _sampled(plan: Plan, requests: Sequence[Request]) -> tuple[Request, ...]:
    """As the plan samples; real text as long as the engine makes it."""
    return tuple(
        replace(
            each,
            temperature=plan.temperature,
            output_tokens=None if plan.real_text else each.output_tokens,
        )
        for each in requests
    )
