"""One simulated experiment: from arrivals, lengths and a load to the figures of a policy.

Owns the meaning of load (a share of the engine's capacity in requests) and that every
policy of an experiment gets the same requests, arrivals and predictions. Called by the
command and by `frontier`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np

from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf_bench import arrivals as arrival_times
from ssjf_bench import lengths, sim_predictions, sim_report
from ssjf_bench.arrivals import Arrivals
from ssjf_bench.lengths import Answered
from ssjf_bench.sim_predictions import Predictions
from ssjf_bench.simulator import UNLIMITED, Setup, Stuck, simulate
from ssjf_bench.step_time import StepTime
from ssjf_bench.trace import Trace, TraceError
from ssjf_bench.workload import Request, Workload

DEFAULT_JOBS = 10_000
FAILURES = (ValueError, TraceError, Stuck)
"""What an experiment that cannot be run raises."""


@dataclass(frozen=True, slots=True)
class Traffic:
    """What comes, before it is known how fast. Raises ValueError where there are no lengths."""

    arrivals: Arrivals
    """Their shape."""
    rows: Sequence[Answered] | None = None
    """Prompts with lengths to draw from; None takes the trace's own lengths in its order."""
    jobs: int | None = None
    """How many requests; None takes the whole trace, or DEFAULT_JOBS."""
    seed: int = 1
    """Of the draw of prompts, of random arrivals and of noise."""
    input_tokens: bool = False
    """Whether prompts have the lengths that the trace says, for prefill and KV; else one token."""
    max_tokens: int | None = None
    """The limit that every request names; None names the longest answer of the run."""

    def __post_init__(self) -> None:
        if not isinstance(self.arrivals, Trace) and (self.rows is None or self.input_tokens):
            raise ValueError("lengths are needed: these arrivals are no trace that has its own")

    def answered(self) -> list[Answered]:
        """The requests' prompts and lengths, in order of arrival."""
        if self.rows is not None:
            return lengths.draw(self.rows, self.count, self.seed)
        assert isinstance(self.arrivals, Trace)  # noqa: S101 (see __post_init__)
        return lengths.from_trace(self.arrivals, self.count)

    def requests(self, answered: Sequence[Answered]) -> tuple[Request, ...]:
        """What `answered` returned, as requests: the same for a simulator and a gateway."""
        return lengths.requests(
            answered, self.seed, max_tokens=self.max_tokens, prompt_tokens=self.prompt_tokens
        )

    @property
    def prompt_tokens(self) -> Sequence[int] | None:
        """The prompts' lengths, where the trace's count."""
        if self.input_tokens and isinstance(self.arrivals, Trace):
            return self.arrivals.input_tokens
        return None

    @property
    def count(self) -> int:
        """How many requests."""
        if self.jobs is not None:
            return self.jobs
        return len(self.arrivals.arrivals_s) if isinstance(self.arrivals, Trace) else DEFAULT_JOBS


@dataclass(frozen=True, slots=True)
class Offered:
    """A workload and what the engine could do of it."""

    workload: Workload
    """Requests and arrivals."""
    load: float
    """Offered requests a second as a share of capacity."""
    capacity_requests_per_s: float
    """What the engine finishes when it is full."""


def offer(
    traffic: Traffic, answered: Sequence[Answered], load: float, batch: int, step_time: StepTime
) -> Offered:
    """The traffic's requests, arriving at `load` times what the model says of this batch size.

    Raises ValueError for an impossible load or more jobs than a trace has.
    """
    requests = traffic.requests(answered)
    capacity = step_time.capacity_requests_per_s(
        batch,
        float(np.mean([request.output_tokens for request in requests])),
        float(np.mean([request.prompt_tokens for request in requests])),
    )
    return offer_at(traffic, requests, load, capacity)


def offer_at(
    traffic: Traffic, requests: Sequence[Request], load: float, capacity_requests_per_s: float
) -> Offered:
    """The traffic's requests, arriving at `load` times a capacity that is known, or was measured.

    Raises ValueError for an impossible load or more jobs than a trace has.
    """
    if not 0 < load < float("inf"):
        raise ValueError("load must be positive")
    rate = load * capacity_requests_per_s
    times = arrival_times.times_s(traffic.arrivals, len(requests), rate, traffic.seed)
    return Offered(Workload(tuple(requests), times), load, capacity_requests_per_s)


def set_up(
    policy: str,
    *,
    mode: str = "continuous",
    max_batch: int = 16,
    max_wait_ms: float = 0.0,
    step_time: StepTime | None = None,
    kv_tokens: int | None = None,
    **policy_options: float | None,
) -> Setup:
    """A setup from plain values; an option that is None keeps the policy's default.

    Raises ValueError for values out of range and for unknown modes.
    """
    given = {name: value for name, value in policy_options.items() if value is not None}
    return Setup(
        policy,
        PolicyOptions(**given),  # type: ignore[arg-type]
        Batching(Mode(mode), max_batch, max_wait_ms / 1e3),
        step_time or StepTime(),
        UNLIMITED if kv_tokens is None else kv_tokens,
    )


def noise(
    answered: Sequence[Answered], seed: int, *, sigma: float | None = None, tau: float | None = None
) -> Predictions:
    """Log-normal noise of the given sigma, or of the sigma that gives Kendall's tau-b `tau`."""
    actual = [each.output_tokens for each in answered]
    if sigma is None:
        sigma = sim_predictions.sigma_for_tau(actual, 1.0 if tau is None else tau, seed)
    return sim_predictions.noisy(actual, sigma, seed)


def figures(offered: Offered, predictions: Predictions, setup: Setup) -> dict[str, Any]:
    """Runs one policy; plain data with the keys of `sim_report.figures` and what was run."""
    outcome = simulate(offered.workload, predictions, setup)
    batching = setup.batching
    return {
        "policy": setup.policy,
        "policy_options": {
            field.name: getattr(setup.options, field.name)
            for field in fields(setup.options)
            if field.name != "oracle_lengths"
        },
        "mode": batching.mode.value,
        "max_batch": batching.places,
        "max_wait_ms": batching.max_wait_s * 1e3,
        "load": offered.load,
        "capacity_requests_s": offered.capacity_requests_per_s,
        "predictions": predictions.origin,
        "kendall_tau_b": sim_predictions.kendall_tau_b(
            predictions.tokens, outcome.output_tokens.tolist()
        ),
        **sim_report.figures(outcome),
    }
