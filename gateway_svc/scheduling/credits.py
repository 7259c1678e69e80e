"""What one engine has free, as the gateway may count on it.

An engine's report is about what it had seen when it sent it; batches that were
still on their way are subtracted. The gateway can thus never send more than fits,
however late reports come.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gateway_svc.scheduling.job import Job


@dataclass(frozen=True, slots=True)
class Room:
    """Places and KV tokens."""

    sequences: int
    kv_tokens: int

    def fits(self, job: Job) -> bool:
        """Whether the job can start now."""
        return self.sequences >= 1 and self.kv_tokens >= job.kv_tokens

    def without(self, job: Job) -> Room:
        """What is left once the job has started."""
        return Room(self.sequences - 1, self.kv_tokens - job.kv_tokens)


@dataclass(slots=True)
class EngineCredits:
    """The running account of one engine.

    `max_job_tokens`: KV tokens of the largest job that the engine can ever hold.
    """

    reported: Room
    max_job_tokens: int
    last_batch_id: int = 0
    _unseen: dict[int, list[Job]] = field(default_factory=dict)

    def report(self, room: Room, batch_id: int) -> None:
        """Takes the engine's word as of `batch_id`; batches after it are still on their way."""
        self.reported = room
        self._unseen = {sent: jobs for sent, jobs in self._unseen.items() if sent > batch_id}

    def take(self, jobs: list[Job]) -> int:
        """Books a batch and returns its id, from 1."""
        self.last_batch_id += 1
        self._unseen[self.last_batch_id] = jobs
        return self.last_batch_id

    def available(self) -> Room:
        """What may be sent now; never negative."""
        jobs = [job for batch in self._unseen.values() for job in batch]
        reserved = sum(job.kv_tokens for job in jobs)
        return Room(
            max(0, self.reported.sequences - len(jobs)),
            max(0, self.reported.kv_tokens - reserved),
        )
