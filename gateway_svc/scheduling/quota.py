"""How much may wait and run: for the whole gateway, and for each tenant.

Owns the limits, their accounts and the refusals. Knows no order and no engine. Called
by the core.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field

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
    class_shares: tuple[float, float, float] = (0.0, 0.1, 0.05)
    """Work guaranteed to each class while it has jobs waiting, whatever waits above it."""

    def __post_init__(self) -> None:
        for name in ("max_queued", "max_queued_tokens", "max_running"):
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


@dataclass(slots=True)
class Account:
    """What one tenant, or the gateway, has waiting and running."""

    limits: Limits | Tenant
    queued: int = field(default=0)
    queued_tokens: int = field(default=0)
    running: int = field(default=0)

    def admit(self, tokens: int, tenant: str | None) -> None:
        """Raises CoreFull where a job of `tokens` tokens may not wait."""
        if self.queued >= self.limits.max_queued:
            raise CoreFull("queued_requests", self.limits.max_queued, tenant)
        if self.queued_tokens + tokens > self.limits.max_queued_tokens:
            raise CoreFull("queued_tokens", self.limits.max_queued_tokens, tenant)
