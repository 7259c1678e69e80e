"""A lane: what one tenant has in one class, and the order in which it goes.

Owns the policy's line, the bound on being overtaken and the counters of work; keeps them
in step. Knows no other lane and no engine. Called by the core and its picker.
"""

from __future__ import annotations

from typing import Final

from gateway_svc.scheduling.bound import OvertakingBound
from gateway_svc.scheduling.entry import Entry, State
from gateway_svc.scheduling.policy import LaneWork, Policy
from gateway_svc.scheduling.quota import Account

OCTAVES: Final = 64


class Lane:
    """One (class, tenant), the `number`th that opened.

    `served`: what counts against its tenant's fair share. `stamp`: an item that the shares'
    heap has with another stamp is stale.
    """

    __slots__ = (
        *("account", "bound", "by_octave", "line", "number", "priority", "served", "stamp"),
        *("waiting", "work"),
    )

    def __init__(
        self, number: int, priority: int, account: Account, policy: Policy, slack_tokens: float
    ) -> None:
        self.number = number
        self.priority = priority
        self.account = account
        self.work = LaneWork()
        self.line = policy.line(self.work)
        alpha = policy.alpha
        self.bound = None if alpha is None else OvertakingBound(alpha, slack_tokens)
        self.waiting = 0
        self.by_octave = [0.0] * OCTAVES
        self.served = 0.0
        self.stamp = 0

    def arrive(self, entry: Entry) -> None:
        """A new job waits."""
        self._wait(entry)
        self.line.add(entry)
        if self.bound is not None:
            self.bound.arrive(entry)

    def come_back(self, entry: Entry, running: list[Entry]) -> None:
        """A job that was here waits again, at its old place. `running`: this lane's."""
        self._wait(entry)
        self.line.rekey(entry)
        if self.bound is not None:
            self.bound.come_back(entry, running)

    def shorter_work(self, work: float) -> float:
        """Predicted work, in tokens, of the waiting jobs that have less than `work`; about."""
        octave = _octave(work)
        return sum(self.by_octave[:octave]) + self.by_octave[octave] / 2

    def _count(self, work: float, sign: int) -> None:
        self.work.waiting += sign * work
        self.by_octave[_octave(work)] += sign * work

    def _wait(self, entry: Entry) -> None:
        entry.state = State.WAITING
        self.waiting += 1
        self._count(entry.work, 1)

    def widen(self, slack_tokens: float) -> None:
        """The bound allows more beside its share: never less than before."""
        if self.bound is not None:
            self.bound.slack = slack_tokens

    def reprice(self, entry: Entry, work: float) -> None:
        """A waiting job has another predicted work."""
        self.line.drop(entry)
        self._count(entry.work, -1)
        self._count(work, 1)
        entry.work = work
        self.line.rekey(entry)

    def withdraw(self, entry: Entry, state: State) -> None:
        """A job that waits in the line leaves it, to be `state`: parked or gone."""
        self.line.drop(entry)
        self.waiting -= 1
        self._count(entry.work, -1)
        entry.state = state
        if self.bound is not None:
            self.bound.withdraw(entry)
            if state is State.GONE:
                self.bound.forget(entry)

    def forget(self, entry: Entry) -> None:
        """A job that waited outside of the line will not come back."""
        entry.state = State.GONE
        if self.bound is not None:
            self.bound.forget(entry)

    def start(self, entry: Entry) -> None:
        """A job that was taken out of the line runs."""
        work = self.work
        self.waiting -= 1
        self._count(entry.work, -1)
        work.running += entry.work
        work.started += entry.work
        self.served += entry.work / self.account.weight
        entry.state = State.RUNNING
        self.line.started(entry)
        if self.bound is not None:
            self.bound.start(entry)

    def stop(self, entry: Entry, *, returns: bool = False) -> None:
        """A running job has ended after `entry.output_tokens`; `returns`: it will come back."""
        work = self.work
        work.running -= entry.work
        spent = entry.prefill_work + entry.output_tokens
        if returns:
            work.started -= entry.work
            spent = 0.0
        self.served += (spent - entry.work) / self.account.weight
        self.line.stopped(entry, returns=returns)
        if self.bound is not None:
            self.bound.end(entry, entry.output_tokens)
            if not returns:
                self.bound.forget(entry)
        entry.state = State.GONE


def _octave(work: float) -> int:
    return min(int(work).bit_length(), OCTAVES - 1)
