"""What one engine has free, as the gateway may count on it.

An engine's report is about what it had seen when it sent it; batches that were
still on their way are subtracted. The gateway can thus never send more than fits,
however late reports come. Called by the core.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from gateway_svc.scheduling.entry import Entry


@dataclass(frozen=True, slots=True)
class Room:
    """Places and KV tokens."""

    sequences: int
    """Jobs that may be added."""
    kv_tokens: int
    """KV tokens that they may reserve together."""


class EngineCredits:
    """The running account of one engine.

    `largest`: KV tokens of the largest job that the engine can ever hold.
    `running`: the jobs that it has, by id.
    """

    __slots__ = (
        "_kv_tokens",
        "_sequences",
        "_unseen",
        "_unseen_kv_tokens",
        "_unseen_sequences",
        "largest",
        "last_batch_id",
        "running",
    )

    def __init__(self, room: Room, largest: int) -> None:
        self.largest = largest
        self.last_batch_id = 0
        self.running: dict[int, Entry] = {}
        self._sequences = room.sequences
        self._kv_tokens = room.kv_tokens
        self._unseen: deque[tuple[int, int, int]] = deque()
        self._unseen_sequences = 0
        self._unseen_kv_tokens = 0

    def report(self, room: Room, batch_id: int) -> None:
        """Takes the engine's word as of `batch_id`; batches after it are still on their way."""
        self._sequences = room.sequences
        self._kv_tokens = room.kv_tokens
        unseen = self._unseen
        while unseen and unseen[0][0] <= batch_id:
            _, sequences, kv_tokens = unseen.popleft()
            self._unseen_sequences -= sequences
            self._unseen_kv_tokens -= kv_tokens

    def take(self, sequences: int, kv_tokens: int) -> int:
        """Books a batch and returns its id, from 1."""
        self.last_batch_id += 1
        self._unseen.append((self.last_batch_id, sequences, kv_tokens))
        self._unseen_sequences += sequences
        self._unseen_kv_tokens += kv_tokens
        return self.last_batch_id

    @property
    def sequences(self) -> int:
        """Jobs that may be sent now; never negative."""
        return max(0, self._sequences - self._unseen_sequences)

    @property
    def kv_tokens(self) -> int:
        """KV tokens that they may reserve together; never negative."""
        return max(0, self._kv_tokens - self._unseen_kv_tokens)
