"""What a scheduling policy is, and the registry of them.

A policy is one file under `policies/` with a class that `register` names; nothing else
has to know it. It makes a line for each lane (a class and tenant): what waits there, in
the order in which it starts. Classes, tenants' shares, limits, memory and the bound on
being overtaken stand above every policy and are the core's.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Protocol

from gateway_svc.scheduling import policies
from gateway_svc.scheduling.entry import Entry

DEFAULT: Final = "tail-ssjf"
"""The policy that `default` names: the best trade of mean against tail (docs/scheduling.md)."""


class Line(Protocol):
    """The waiting jobs of one lane, in a policy's order.

    A job that the line holds may leave it without being popped: its `stamp` has changed
    then, and the line skips what it has under the old one.
    """

    def add(self, entry: Entry) -> None:
        """A new job comes; the work of its lane has it already."""

    def rekey(self, entry: Entry) -> None:
        """A job that the line does not hold comes again: back from an engine that left, or
        under a new prediction. Its place among arrivals is the old one."""

    def restore(self, entry: Entry) -> None:
        """A job that was popped did not start: it waits on at its place."""

    def pop(self, now_s: float) -> Entry | None:
        """Takes out the job that goes first now; None where the line is empty."""

    def drop(self, entry: Entry) -> None:
        """A job leaves without having been popped."""

    def started(self, entry: Entry) -> None:
        """A job that the line no longer holds starts. Most lines need not know."""
        del entry

    def stopped(self, entry: Entry, *, returns: bool) -> None:
        """A job that started ends after `entry.output_tokens`; `returns`: it comes again."""
        del entry, returns

    def company(self, work: float, most: int) -> list[Entry]:
        """Jobs that a whole batch with one of `work` tokens has room for at no cost.

        At most `most` that the line holds, of no more predicted work, most work first: they end
        while the batch runs on. Only lines that take out longer jobs before shorter ones have
        reason to name any.
        """
        del work, most
        return []

    def in_order(self, now_s: float) -> list[Entry]:
        """All jobs in the order in which they would start if nothing else came."""


@dataclass(slots=True)
class LaneWork:
    """Predicted work of one lane, in tokens; the core keeps it, policies read it."""

    waiting: float = 0.0
    """Of the jobs that wait."""
    running: float = 0.0
    """Of the jobs at engines."""
    started: float = 0.0
    """Of every job that has ever started: the lane's own clock."""


class Policy(Protocol):
    """Orders waiting jobs."""

    @property
    def alpha(self) -> float | None:
        """The bound on being overtaken that the core shall enforce; None: no bound.

        Later arrivals that start before a job never amount to more than (alpha - 1) times
        the work ahead of it, and one batch of maximum-length jobs (docs/scheduling.md).
        """

    @property
    def by_length(self) -> bool:
        """Whether shorter jobs go first in the main; what predicted waits are based on."""

    def line(self, work: LaneWork) -> Line:
        """An empty line for a lane whose work is `work`."""


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What a policy may be built from. Raises ValueError for values out of range."""

    alpha: float | None = None
    """Bound on being overtaken: 1 is FCFS up to a batch, infinity pure SSJF. None takes the
    policy's own: 1.3 for bounded-ssjf, where it is the price in tail that is accepted."""
    tail: float = 1.2
    """tail-ssjf: completion times to aim below, as a multiple of the p99 of first come, first
    served over the last arrivals."""
    tail_longest: float = 2.0
    """tail-ssjf: how many times as long the longest 0.8 % of jobs, by prediction, may take."""
    ageing_s_per_token: float = 0.05
    """ssjf-ageing: a job goes before one that is shorter by a token if it came this much
    earlier."""
    typical_tokens: float = 256.0
    """hrrn: output tokens that a job is taken to have, as far as its max_tokens allows."""
    hrrn_on_predictions: bool = False
    """hrrn: service is the predicted work instead."""
    oracle_lengths: Mapping[str, int] | None = None
    """True output tokens by request id; benchmarks only."""

    def __post_init__(self) -> None:
        if self.alpha is not None and not self.alpha >= 1:
            raise ValueError("alpha must be at least 1")
        if not (self.tail > 0 and self.tail_longest >= 1):
            raise ValueError("tail must be positive, tail_longest at least 1")
        if not self.ageing_s_per_token >= 0 or not self.typical_tokens > 0:
            raise ValueError("ageing_s_per_token >= 0 and typical_tokens > 0 wanted")


PolicyFactory = Callable[[PolicyOptions], Policy]
_FACTORIES: dict[str, PolicyFactory] = {}


def register(name: str) -> Callable[[type], type]:
    """Registers a policy class, built from one `PolicyOptions`, under `name`."""

    def add(factory: type) -> type:
        _FACTORIES[name] = factory
        return factory

    return add


def names() -> tuple[str, ...]:
    """The registered names, in alphabetical order."""
    _import_all()
    return tuple(sorted(_FACTORIES))


def create(name: str, options: PolicyOptions | None = None) -> Policy:
    """The policy of that name, or `default`. Raises ValueError naming those there are."""
    _import_all()
    name = DEFAULT if name == "default" else name
    if name not in _FACTORIES:
        raise ValueError(f"unknown policy {name!r}; there are: {', '.join(names())}")
    return _FACTORIES[name](options or PolicyOptions())


def _import_all() -> None:
    for module in pkgutil.iter_modules(policies.__path__):
        importlib.import_module(f"{policies.__name__}.{module.name}")
