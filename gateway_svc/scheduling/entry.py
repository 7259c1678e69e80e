"""One job inside the core, from `submit` to its end.

Owns no rule: the fields that line, bound, lane and core keep about a job, in one mutable
object, because a job is touched a handful of times in microseconds.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING

from gateway_svc.scheduling.job import Job

if TYPE_CHECKING:
    from gateway_svc.scheduling.lane import Lane


class State(Enum):
    """Where a job is."""

    WAITING = "waiting"
    """In its lane's line, or taken out of it within one decision."""
    PARKED = "parked"
    """Waiting, but larger than any engine that is here can ever hold."""
    RUNNING = "running"
    """At an engine."""
    GONE = "gone"
    """Ended, cancelled or dropped."""


class Entry:
    """A job with its place.

    `number`: order of arrival in the whole core; ties go by it.
    `work`: predicted work in tokens (see `StepModel.work_tokens`); `prefill_work` its share
    of prefill.
    `key`, `due`: what the policy's line keeps about it. `stamp`: an item that a line has with
    another stamp is stale.
    `slot`, `floor`: what the lane's bound keeps about it.
    """

    __slots__ = (
        "due",
        "engine_id",
        "expires_s",
        "expiry_listed",
        "floor",
        "job",
        "job_id",
        "key",
        "kv_tokens",
        "lane",
        "max_tokens",
        "number",
        "output_tokens",
        "passes",
        "prefill_work",
        "slot",
        "stamp",
        "state",
        "work",
    )

    def __init__(self, job: Job, number: int, lane: Lane, prefill_work: float) -> None:
        self.job = job
        self.job_id = job.job_id
        self.number = number
        self.lane = lane
        self.kv_tokens = job.kv_tokens
        self.max_tokens = job.max_tokens
        self.state = State.WAITING
        self.engine_id = ""
        self.output_tokens = 0
        self.passes = 0
        self.stamp = 0
        self.key = 0.0
        self.due = 0.0
        self.slot = -1
        self.floor = 0.0
        self.expires_s = job.deadline_s
        self.expiry_listed = False
        self.prefill_work = job.uncached_prompt_tokens * prefill_work
        self.work = self.prefill_work + job.expected_output_tokens
