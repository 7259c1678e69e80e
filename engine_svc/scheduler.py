"""Decides which sequences run in the next step.

Pure; no tensors, no clock. The order in which sequences came is the order in which
they start: the gateway's queue has decided it. A sequence starts when there is a
place and KV cache for all that it may come to have, so a running one never has to
give way.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass

from engine_svc.blocks import BlockAccounting
from engine_svc.sequence import Sequence, State


@dataclass(frozen=True, slots=True)
class Step:
    """The work of one step; a token is sampled for every sequence in it."""

    prefill: tuple[Sequence, ...]
    """Sequences whose prompt is to be read."""
    decode: tuple[Sequence, ...]
    """Sequences that go on by one token."""

    @property
    def sequences(self) -> tuple[Sequence, ...]:
        """All of them, in the order of the results."""
        return self.prefill + self.decode


@dataclass(frozen=True, slots=True)
class Capacity:
    """What is free, with the sequences that wait to start counted as running."""

    free_sequences: int
    free_kv_tokens: int
    running_sequences: int


class Scheduler:
    """Continuous batching: new sequences join at any step, ended ones leave at once."""

    def __init__(
        self, blocks: BlockAccounting, *, max_sequences: int, max_prefill_tokens: int
    ) -> None:
        self._blocks = blocks
        self._max_sequences = max_sequences
        self._max_prefill_tokens = max_prefill_tokens
        self._places = list(range(max_sequences - 1, -1, -1))
        self._waiting: deque[Sequence] = deque()
        self._running: dict[int, Sequence] = {}

    @property
    def has_work(self) -> bool:
        """Whether `schedule` would find anything."""
        return bool(self._waiting or self._running)

    def can_ever_hold(self, sequence: Sequence) -> bool:
        """Whether the sequence would fit into an empty engine."""
        return self._need(sequence) <= self._blocks.total_blocks

    def add(self, sequence: Sequence) -> None:
        """Takes a sequence for one of the next steps. It must pass `can_ever_hold`."""
        self._waiting.append(sequence)

    def schedule(self) -> Step:
        """The next step: every running sequence decodes, waiting ones that fit start."""
        decode = tuple(self._running.values())
        prefill: list[Sequence] = []
        budget = self._max_prefill_tokens
        while self._waiting and self._can_start(self._waiting[0]):
            if prefill and len(self._waiting[0].prompt) > budget:
                break
            sequence = self._waiting.popleft()
            self._start(sequence)
            budget -= len(sequence.prompt)
            prefill.append(sequence)
        return Step(tuple(prefill), decode)

    def end(self, sequence: Sequence) -> None:
        """Takes a running sequence out and frees what it held."""
        del self._running[sequence.sequence_id]
        self._blocks.free(sequence.blocks)
        self._places.append(sequence.place)
        sequence.state, sequence.blocks, sequence.place = State.ENDED, (), -1

    def cancel(self, sequence_ids: Iterable[int]) -> list[Sequence]:
        """Takes sequences out wherever they are; unknown ids are ignored. Returns them."""
        wanted = set(sequence_ids)
        waiting = [s for s in self._waiting if s.sequence_id in wanted]
        running = [self._running[i] for i in wanted if i in self._running]
        for sequence in waiting:
            self._waiting.remove(sequence)
            sequence.state = State.ENDED
        for sequence in running:
            self.end(sequence)
        return waiting + running

    def cancel_all(self) -> list[Sequence]:
        """Takes every sequence out. Returns them."""
        return self.cancel([*self._running, *(s.sequence_id for s in self._waiting)])

    def capacity(self) -> Capacity:
        """What further sequences could have."""
        live = len(self._running) + len(self._waiting)
        promised = sum(map(self._need, self._waiting))
        free_blocks = max(0, self._blocks.free_blocks - promised)
        return Capacity(
            free_sequences=max(0, self._max_sequences - live),
            free_kv_tokens=free_blocks * self._blocks.block_tokens,
            running_sequences=live,
        )

    def check(self) -> None:
        """Raises RuntimeError where places or blocks are lost or held twice."""
        self._blocks.check()
        held = sum(len(s.blocks) for s in self._running.values())
        if held + self._blocks.free_blocks != self._blocks.total_blocks:
            raise RuntimeError("KV blocks are taken by no running sequence")
        places = sorted([*self._places, *(s.place for s in self._running.values())])
        if places != list(range(self._max_sequences)):
            raise RuntimeError("places of the batch are lost or held twice")

    def _need(self, sequence: Sequence) -> int:
        return self._blocks.blocks_for(sequence.reserved_tokens)

    def _can_start(self, sequence: Sequence) -> bool:
        return bool(self._places) and self._blocks.can_allocate(self._need(sequence))

    def _start(self, sequence: Sequence) -> None:
        sequence.blocks = self._blocks.allocate(self._need(sequence))
        sequence.place = self._places.pop()
        sequence.state = State.RUNNING
        self._running[sequence.sequence_id] = sequence
