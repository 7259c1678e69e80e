"""How much may wait and run: for the whole gateway, and for each tenant.

Owns the limits, their accounts and the refusals. Knows no order and no engine. Called
by the core.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass

UNLIMITED = sys.maxsize


class CoreFull(Exception):
    """A limit on what may wait is reached.

    `subject` names the limit (`queued_requests`, `queued_tokens`), `tenant` whose it is
    (None: the gateway's), `limit` its value.
    """

    def __init__(self, subject: str, limit: int, tenant: str | None = None) -> None:
        whose = "the queue" if tenant is None else f"tenant {tenant!r}"
        super().__init__(f"{whose} has reached its limit of {limit} {subject}")
        self.subject = subject
        self.limit = limit
        self.tenant = tenant


@dataclass(frozen=True, slots=True)
class Limits:
    """Bounds of the gateway as a whole. Raises ValueError for one that cannot hold."""

    max_queued: int = 1024
    """Jobs that may wait."""
    max_queued_tokens: int = UNLIMITED
    """Tokens that may wait: prompt + max_tokens of each job."""
    max_running: int = UNLIMITED
    """Jobs that may run, on all engines together."""
    queue_timeout_s: float = float("inf")
    """Seconds that a job may wait before `expire` drops it."""
    max_passes: int = 64
    """Jobs that may start past one that does not fit an engine's free KV tokens."""
    longest_answer_tokens: int = 1024
    """What a batch of maximum-length jobs is made of, in the bound on being overtaken. A job
    with a larger max_tokens may be accepted, and overtakes the less for it."""
    class_shares: tuple[float, float, float] = (0.0, 0.1, 0.05)
    """Work guaranteed to each class while it has jobs waiting, whatever waits above it."""

    def __post_init__(self) -> None:
        for name in ("max_queued", "max_queued_tokens", "max_running", "longest_answer_tokens"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be at least 1")
        if self.max_passes < 0 or not self.queue_timeout_s > 0:
            raise ValueError("max_passes >= 0 and queue_timeout_s > 0 wanted")
        if not (all(share >= 0 for share in self.class_shares) and sum(self.class_shares) < 1):
            raise ValueError("class_shares must not be negative and sum up to less than 1")


@dataclass(frozen=True, slots=True)
class Tenant:
    """A tenant's weight and bounds. Raises ValueError for ones that cannot hold."""

    name: str = ""
    """As in `Job.tenant`."""
    weight: float = 1.0
    """Its share of the work of its class, against the other tenants' weights."""
    max_queued: int = UNLIMITED
    """Jobs that may wait."""
    max_queued_tokens: int = UNLIMITED
    """Tokens that may wait: prompt + max_tokens of each job."""
    max_running: int = UNLIMITED
    """Jobs that may run, on all engines together."""

    def __post_init__(self) -> None:
        if not 0 < self.weight < float("inf"):
            raise ValueError(f"tenant {self.name!r}: weight must be positive")
        for name in ("max_queued", "max_queued_tokens", "max_running"):
            if getattr(self, name) < 1:
                raise ValueError(f"tenant {self.name!r}: {name} must be at least 1")


class Account:
    """What one tenant, or the gateway (`tenant` None), has waiting and running."""

    __slots__ = ("limits", "queued", "queued_tokens", "running", "tenant", "weight")

    def __init__(self, limits: Limits | Tenant, tenant: str | None, weight: float = 1.0) -> None:
        self.limits = limits
        self.tenant = tenant
        self.weight = weight
        self.queued = 0
        self.queued_tokens = 0
        self.running = 0

    def admit(self, tokens: int) -> None:
        """Raises CoreFull where a job of `tokens` tokens may not wait."""
        limits = self.limits
        if self.queued >= limits.max_queued:
            raise CoreFull("queued_requests", limits.max_queued, self.tenant)
        if self.queued_tokens + tokens > limits.max_queued_tokens:
            raise CoreFull("queued_tokens", limits.max_queued_tokens, self.tenant)

    def wait(self, tokens: int) -> None:
        """A job of `tokens` tokens waits."""
        self.queued += 1
        self.queued_tokens += tokens

    def unwait(self, tokens: int) -> None:
        """It waits no more."""
        self.queued -= 1
        self.queued_tokens -= tokens

    @property
    def may_run(self) -> int:
        """How many more jobs may run."""
        return self.limits.max_running - self.running
