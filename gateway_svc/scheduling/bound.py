"""The bound on being overtaken, kept and checked in actual tokens.

Owns, for one lane (a class and tenant), how much work of later arrivals has been started
before each waiting job, and says whom a start would wrong. Knows no policy, no prediction
and no time. Called by the lane; the proof is in docs/scheduling.md.

    h(j) = (alpha - 1) · (tokens of the lane that ended since j came)  + slack
         - sum over later arrivals i that have been started:
               max_tokens(i) while i runs, alpha · tokens(i) once it has ended

A later arrival m may start before j where max_tokens(m) <= h(j). Ends only ever raise h.

Arrivals are the leaves of a complete binary tree, in order. A node holds the charges below
it (`_charge`) and the least `value - charges to its right, below the node` of the waiting
jobs below it (`_least`): one change or question is one walk between leaf and root.
"""

from __future__ import annotations

from math import inf
from typing import Final

from gateway_svc.scheduling.entry import Entry

FIRST_LEAVES: Final = 64
ROUNDING_TOKENS: Final = 1e-6


class OvertakingBound:
    """Budgets of one lane. `alpha` >= 1; `slack`: one batch of longest answers, may grow."""

    __slots__ = (
        "_alpha",
        "_charge",
        "_credit",
        "_entries",
        "_least",
        "_leaves",
        "slack",
        "violations",
    )

    def __init__(self, alpha: float, slack_tokens: float) -> None:
        self._alpha = alpha
        self.slack = float(slack_tokens)
        self._credit = 0.0
        self._entries: list[Entry | None] = []
        self.violations = 0
        self._rebuild([], [])

    def arrive(self, entry: Entry) -> None:
        """The newest job of the lane waits."""
        if len(self._entries) == self._leaves:
            self._compact()
        entry.slot = len(self._entries)
        entry.floor = 0.0
        self._entries.append(entry)
        self._set(entry.slot, -self._credit)

    def come_back(self, entry: Entry, running: list[Entry]) -> None:
        """A job waits again at its old place; what overtakes it counts from now.

        `running`: the lane's jobs at engines; those that arrived later count as if they were
        about to start, so that what they have yet to produce is within the bound.
        """
        charged = sum(float(each.max_tokens) for each in running if each.slot > entry.slot)
        budget = self.slack - charged
        entry.floor = min(0.0, budget)
        value = budget - self.slack - self._credit + self._charges_after(entry.slot)
        self._set(entry.slot, value)

    def blocker(self, entry: Entry) -> Entry | None:
        """The earliest waiting job that `entry` must not be started before; None: it may start."""
        wanted = entry.max_tokens - self._credit - self.slack
        least = self._least
        if least[1] >= wanted:
            return None
        node, right = 1, 0.0
        leaves = self._leaves
        charge = self._charge
        while node < leaves:
            node *= 2
            beyond = right + charge[node + 1]
            if least[node] - beyond < wanted:
                right = beyond
            else:
                node += 1
        slot = node - leaves
        return self._entries[slot] if slot < entry.slot else None

    def start(self, entry: Entry) -> None:
        """A job stops waiting and runs."""
        if self._least[1] + self._credit + self.slack < -ROUNDING_TOKENS:
            self.violations += self.breached(entry)
        self._charge_more(entry.slot, float(entry.max_tokens))

    def end(self, entry: Entry, output_tokens: int) -> None:
        """A running job ends after `output_tokens` tokens, 0 where all it did was in vain."""
        self._credit += (self._alpha - 1.0) * output_tokens
        self._charge_more(entry.slot, self._alpha * output_tokens - entry.max_tokens)

    def withdraw(self, entry: Entry) -> None:
        """A job stops waiting without having run."""
        self._set(entry.slot, inf)

    def forget(self, entry: Entry) -> None:
        """A job will never come back."""
        self._entries[entry.slot] = None

    def budget_tokens(self, entry: Entry) -> float:
        """h of a waiting job."""
        value = self._least[self._leaves + entry.slot]
        return value + self._credit + self.slack - self._charges_after(entry.slot)

    def breached(self, entry: Entry) -> bool:
        """Whether a waiting job has been overtaken by more than the bound allows."""
        return self.budget_tokens(entry) < entry.floor - ROUNDING_TOKENS

    def _charges_after(self, slot: int) -> float:
        charge = self._charge
        node = self._leaves + slot
        total = 0.0
        while node > 1:
            if not node & 1:
                total += charge[node + 1]
            node >>= 1
        return total

    def _set(self, slot: int, value: float) -> None:
        """Changes a leaf's value; its charge stays."""
        charge, least = self._charge, self._least
        node = self._leaves + slot
        least[node] = value
        while node > 1:
            right = node | 1
            node >>= 1
            first = least[right - 1] - charge[right]
            second = least[right]
            value = first if first < second else second
            if least[node] == value:
                return
            least[node] = value

    def _charge_more(self, slot: int, tokens: float) -> None:
        """Changes the charge of a leaf that does not wait, or no longer does."""
        charge, least = self._charge, self._least
        node = self._leaves + slot
        charge[node] += tokens
        least[node] = inf
        while node > 1:
            right = node | 1
            left = right - 1
            node >>= 1
            beyond = charge[right]
            charge[node] = charge[left] + beyond
            first = least[left] - beyond
            second = least[right]
            least[node] = first if first < second else second

    def _compact(self) -> None:
        """Keeps the leaves of jobs that wait or run; others' charges go to the next one kept.

        The charges to the right of every waiting job stay what they are.
        """
        charge = self._charge[self._leaves :]
        least = self._least[self._leaves :]
        entries: list[Entry | None] = []
        charges: list[float] = []
        values: list[float] = []
        pending = 0.0
        for slot, entry in enumerate(self._entries):
            if entry is None:
                pending += charge[slot]
                continue
            entry.slot = len(entries)
            entries.append(entry)
            # Nothing that waits is before the first.
            charges.append(charge[slot] + pending if charges else charge[slot])
            values.append(least[slot] + self._credit)
            pending = 0.0
        if pending and entries:
            entries.append(None)
            charges.append(pending)
            values.append(inf)
        self._entries = entries
        self._credit = 0.0
        self._rebuild(charges, values)

    def _rebuild(self, charges: list[float], values: list[float]) -> None:
        leaves = FIRST_LEAVES
        while leaves < 2 * len(charges):
            leaves *= 2
        self._leaves = leaves
        blank = leaves - len(charges)
        charge = self._charge = [0.0] * leaves + charges + [0.0] * blank
        least = self._least = [inf] * leaves + values + [inf] * blank
        # What lies right of the leaves in use is blank already.
        last = leaves + len(charges) - 1
        first = leaves
        while first > 1:
            first //= 2
            last //= 2
            for node in range(first, last + 1):
                beyond = charge[2 * node + 1]
                charge[node] = charge[2 * node] + beyond
                least[node] = min(least[2 * node] - beyond, least[2 * node + 1])
