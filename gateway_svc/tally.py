"""How much waits and runs, by class and tenant: counts that are kept, never recounted.

Owns the counts that snapshots, metrics and estimates read, so that looking at a long
queue costs nothing. Pure; the dispatcher tells it of every move of a job.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from gateway_svc.scheduling.job import Job, Priority

Key = tuple[Priority, str]


@dataclass(slots=True)
class Group:
    """The jobs of one class and tenant."""

    waiting: int = 0
    running: int = 0
    waiting_tokens: float = 0.0
    """Predicted output tokens of those that wait."""


@dataclass(slots=True)
class TenantTotals:
    """One tenant, since the gateway started unless said otherwise."""

    present: int = 0
    """Requests that are here now, accepted or on their way."""
    output_tokens: int = 0
    """Of finished requests."""
    refused: int = 0
    """Requests that met a limit."""


class Tally:
    """Counts of everything that is accepted and has not ended."""

    def __init__(self) -> None:
        self.groups: dict[Key, Group] = {}
        self.tenants: dict[str, TenantTotals] = {}

    def tenant(self, name: str) -> TenantTotals:
        """The totals of a tenant, from 0 where it is new."""
        return self.tenants.setdefault(name, TenantTotals())

    def waits(self, job: Job) -> None:
        """A job has been queued, for the first time or again."""
        group = self._group(job)
        group.waiting += 1
        group.waiting_tokens += job.expected_output_tokens

    def waits_no_more(self, job: Job) -> None:
        """A waiting job has been started or has gone."""
        group = self._group(job)
        group.waiting -= 1
        # Sums of floats drift; an empty queue is exactly empty.
        left = group.waiting_tokens - job.expected_output_tokens
        group.waiting_tokens = left if group.waiting else 0.0

    def runs(self, job: Job) -> None:
        """An engine has got a job."""
        self._group(job).running += 1

    def runs_no_more(self, job: Job) -> None:
        """A running job has ended, or its engine has."""
        self._group(job).running -= 1

    def waiting_of(self, tenant: str) -> int:
        """Jobs of a tenant that wait."""
        return sum(group.waiting for group in self._of(tenant))

    def waiting_tokens_of(self, tenant: str) -> float:
        """Predicted output tokens of what a tenant has waiting."""
        return sum(group.waiting_tokens for group in self._of(tenant))

    def running_of(self, tenant: str) -> int:
        """Jobs of a tenant that run."""
        return sum(group.running for group in self._of(tenant))

    @property
    def waiting_tokens(self) -> float:
        """Predicted output tokens of everything that waits."""
        return sum(group.waiting_tokens for group in self.groups.values())

    def of_class(self, priority: Priority) -> Group:
        """One class, all tenants together."""
        groups = [group for (each, _), group in self.groups.items() if each is priority]
        return Group(
            sum(group.waiting for group in groups),
            sum(group.running for group in groups),
            sum(group.waiting_tokens for group in groups),
        )

    def _of(self, tenant: str) -> Iterator[Group]:
        return (group for (_, name), group in self.groups.items() if name == tenant)

    def _group(self, job: Job) -> Group:
        key = (job.priority, job.tenant)
        group = self.groups.get(key)
        if group is None:
            group = self.groups[key] = Group()
        return group
