"""Decides what runs in the next step: whole prompts or pieces of them, and decoding.

Pure; no tensors, no clock. The order in which sequences came is the order in which
they start: the gateway's queue has decided it. A step is scheduled before the tokens
of the one before are known, so everything that can be known beforehand (who ends by
length, who needs a block more) stands in a calendar by step number, and a step in
which nothing changes costs nothing here. Called by the engine loop.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable
from dataclasses import dataclass

from engine_svc.batching_mode import BatchingMode
from engine_svc.blocks import BlockAccounting
from engine_svc.prefix import block_names
from engine_svc.sequence import Sequence, State
from engine_svc.step import Cell, Chunk, Step


@dataclass(frozen=True, slots=True)
class Capacity:
    """What is free, with the sequences that wait to start counted as running."""

    free_sequences: int
    free_kv_tokens: int
    running_sequences: int


class Scheduler:
    """Puts waiting and running sequences together into steps."""

    def __init__(
        self,
        blocks: BlockAccounting,
        *,
        max_sequences: int,
        max_prefill_tokens: int,
        max_idle_prefill_tokens: int | None = None,
        prefix_reuse: bool = True,
    ) -> None:
        """`max_prefill_tokens` are read in a step at most; `max_idle_prefill_tokens` where there
        is nobody who decodes meanwhile and is held up, by default as many."""
        self._blocks = blocks
        self.max_sequences = max_sequences
        self._max_prefill_tokens = max_prefill_tokens
        self._max_idle_prefill_tokens = max_idle_prefill_tokens or max_prefill_tokens
        self._prefix_reuse = prefix_reuse
        self._mode = BatchingMode.CONTINUOUS
        self._places = list(range(max_sequences - 1, -1, -1))
        # Places of ended sequences of a dynamic batch that goes on.
        self._resting: list[int] = []
        self._gathering = False
        self._waiting: deque[Sequence] = deque()
        self._promised_blocks = 0  # to those that wait
        self._running: dict[int, Sequence] = {}
        self._reading: dict[int, Sequence] = {}
        self._decoding: dict[int, Sequence] = {}
        self._decode: tuple[Sequence, ...] | None = ()
        self._number = 0
        self._preempted = 0
        self._arrivals = 0
        self._runs = 0
        # By step number: who no longer decodes then, and who writes beyond its blocks then.
        self._leaves: defaultdict[int, list[tuple[Sequence, int]]] = defaultdict(list)
        self._grows: defaultdict[int, list[tuple[Sequence, int]]] = defaultdict(list)

    @property
    def has_work(self) -> bool:
        """Whether there are sequences that have not ended."""
        return bool(self._waiting or self._running)

    def can_ever_hold(self, sequence: Sequence) -> bool:
        """Whether the sequence would fit into an empty engine."""
        return self._blocks.blocks_for(sequence.most_tokens) <= self._blocks.total_blocks

    def batch_by(self, mode: BatchingMode) -> None:
        """Changes the batching mode; what waits or runs goes on under the new one."""
        self._mode = mode
        self._places += self._resting
        self._resting = []

    def add(self, sequence: Sequence) -> None:
        """Takes a sequence for one of the next steps. It must pass `can_ever_hold`."""
        self._arrivals += 1
        sequence.arrival = self._arrivals
        self._waiting.append(sequence)
        self._promised_blocks += self._need(sequence)

    def schedule(self) -> Step:
        """The next step: who decodes does so, prompts are read within the budget."""
        self._number += 1
        for sequence, run in self._leaves.pop(self._number, ()):
            if self._goes_on(sequence, run):
                del self._decoding[sequence.sequence_id]
                self._decode = None
        cells = self._grow()
        decode = self._decode_rows()
        started: list[Sequence] = []
        chunks = self._read(decode, started)
        cells += [
            Cell(s.place, column, block) for s in started for column, block in enumerate(s.blocks)
        ]
        preempted, self._preempted = self._preempted, 0
        return Step(chunks, decode, tuple(started), tuple(cells), preempted)

    def end(self, sequence: Sequence) -> None:
        """Takes a running sequence out and frees what it held."""
        self._name_answer(sequence)
        self._release(sequence)
        sequence.state = State.ENDED

    def fail(self, sequence: Sequence) -> list[int]:
        """Does the same where its keys and values are not to be trusted: nobody finds them.

        Returns the blocks that it alone held, to be wiped before another gets them.
        """
        spoiled = self._blocks.own(sequence.blocks)
        self._blocks.forget(sequence.blocks)
        self._release(sequence)
        sequence.state = State.ENDED
        return spoiled

    def cancel(self, sequence_ids: Iterable[int]) -> list[Sequence]:
        """Takes sequences out wherever they are; unknown ids are ignored. Returns them."""
        wanted = set(sequence_ids)
        waiting = [s for s in self._waiting if s.sequence_id in wanted]
        running = [self._running[i] for i in wanted if i in self._running]
        for sequence in waiting:
            self._waiting.remove(sequence)
            self._promised_blocks -= self._need(sequence)
            sequence.state = State.ENDED
        for sequence in running:
            self.end(sequence)
        return waiting + running

    def cancel_all(self) -> list[Sequence]:
        """Takes every sequence out. Returns them."""
        return self.cancel([*self._running, *(s.sequence_id for s in self._waiting)])

    def capacity(self) -> Capacity:
        """What further sequences could have."""
        live = len(self._running) + len(self._waiting) + len(self._resting)
        free_blocks = max(0, self._blocks.free_blocks - self._promised_blocks)
        return Capacity(
            free_sequences=max(0, self._most_sequences() - live),
            free_kv_tokens=free_blocks * self._blocks.block_tokens,
            running_sequences=live,
        )

    def check(self, *, thorough: bool = True) -> None:
        """Raises RuntimeError where places or blocks are lost or held twice.

        Not `thorough`, free blocks are counted only.
        """
        self._blocks.check((s.blocks for s in self._running.values()), thorough=thorough)
        held = [s.place for s in self._running.values()]
        if sorted([*self._places, *self._resting, *held]) != list(range(self.max_sequences)):
            raise RuntimeError("places of the batch are lost or held twice")
        if self._promised_blocks != sum(map(self._need, self._waiting)):
            raise RuntimeError("blocks promised to waiting sequences are counted wrong")

    def _most_sequences(self) -> int:
        if self._mode is BatchingMode.NONE:
            return 1
        together = self._mode is BatchingMode.DYNAMIC and self._running
        return 0 if together else self.max_sequences

    def _need(self, sequence: Sequence) -> int:
        return self._blocks.blocks_for(sequence.reserved_tokens)

    def _decode_rows(self) -> tuple[Sequence, ...]:
        if self._decode is None:
            self._decode = tuple(self._decoding.values())
        return self._decode

    def _read(self, decode: tuple[Sequence, ...], started: list[Sequence]) -> tuple[Chunk, ...]:
        """Chunks within the budget: of prompts begun before, then of those that start."""
        budget = self._max_prefill_tokens if decode else self._max_idle_prefill_tokens
        chunks: list[Chunk] = []
        for sequence in list(self._reading.values()):
            if budget > 0:
                chunks.append(self._chunk(sequence, budget))
                budget -= chunks[-1].tokens
        self._gathering |= not self._running
        while budget > 0 and self._waiting and self._may_start(self._waiting[0]):
            sequence = self._waiting.popleft()
            self._promised_blocks -= self._need(sequence)
            self._start(sequence)
            started.append(sequence)
            chunks.append(self._chunk(sequence, budget))
            budget -= chunks[-1].tokens
        # A dynamic batch is closed once nobody is left, or nobody fits.
        self._gathering &= budget <= 0
        for chunk in chunks:  # from the next step on: what is being read now is not there yet
            self._name_prompt(chunk)
        return tuple(chunks)

    def _chunk(self, sequence: Sequence, budget: int) -> Chunk:
        left = sequence.length - sequence.read_tokens
        chunk = Chunk(sequence, sequence.read_tokens, min(left, budget), left <= budget)
        sequence.read_tokens += chunk.tokens
        if chunk.last:
            del self._reading[sequence.sequence_id]
            self._decode_from_next(sequence)
        return chunk

    def _decode_from_next(self, sequence: Sequence) -> None:
        left = sequence.limit_tokens - len(sequence.output)
        if left <= 1:
            return
        self._decoding[sequence.sequence_id] = sequence
        self._decode = None
        self._leaves[self._number + left].append((sequence, sequence.run))
        room = len(sequence.blocks) * self._blocks.block_tokens - sequence.length
        if room < left - 1:
            self._grows[self._number + 1 + room].append((sequence, sequence.run))

    def _may_start(self, sequence: Sequence) -> bool:
        if self._mode is BatchingMode.NONE and self._running:
            return False
        if self._mode is BatchingMode.DYNAMIC and not self._gathering:
            return False
        if not self._places:
            return False
        shared = self._known_blocks(sequence)
        return self._blocks.can_allocate(self._need(sequence) - len(shared), shared)

    def _known_blocks(self, sequence: Sequence) -> list[int]:
        """Blocks that it need not read; at least its last token it has to."""
        if not self._prefix_reuse:
            return []
        if sequence.block_names is None:
            sequence.block_names = self._names(sequence, sequence.tokens)
        readable = (sequence.length - 1) // self._blocks.block_tokens
        return self._blocks.find(sequence.block_names[:readable])

    def _start(self, sequence: Sequence) -> None:
        shared = self._known_blocks(sequence)
        self._blocks.share(shared)
        sequence.blocks = shared + self._blocks.allocate(self._need(sequence) - len(shared))
        sequence.read_tokens = len(shared) * self._blocks.block_tokens
        if not sequence.output:
            sequence.cached_prompt_tokens = sequence.read_tokens
        sequence.place = self._places.pop()
        sequence.state = State.RUNNING
        self._runs += 1
        sequence.run = self._runs
        self._running[sequence.sequence_id] = sequence
        self._reading[sequence.sequence_id] = sequence

    def _release(self, sequence: Sequence) -> None:
        del self._running[sequence.sequence_id]
        self._reading.pop(sequence.sequence_id, None)
        if self._decoding.pop(sequence.sequence_id, None):
            self._decode = None
        self._blocks.free(sequence.blocks)
        (self._resting if self._mode is BatchingMode.DYNAMIC else self._places).append(
            sequence.place
        )
        if not self._running:
            self._places += self._resting
            self._resting = []
        sequence.blocks, sequence.place, sequence.run = [], -1, -1

    def _grow(self) -> list[Cell]:
        """A block more for each sequence that writes beyond its last one in this step."""
        cells = []
        for sequence, run in self._grows.pop(self._number, ()):
            while self._goes_on(sequence, run) and not self._blocks.can_allocate(1):
                self._preempt(max(self._running.values(), key=lambda s: s.arrival))
            if not self._goes_on(sequence, run):
                continue
            sequence.blocks += self._blocks.allocate(1)
            cells.append(Cell(sequence.place, len(sequence.blocks) - 1, sequence.blocks[-1]))
            later = self._number + self._blocks.block_tokens
            self._grows[later].append((sequence, run))
        return cells

    def _goes_on(self, sequence: Sequence, run: int) -> bool:
        return sequence.run == run and sequence.sequence_id in self._decoding

    def _preempt(self, sequence: Sequence) -> None:
        """Takes the place and blocks of a sequence, which is read again when there is room.

        Its token that may be on the way is lost, and sampled again.
        """
        self._name_answer(sequence)
        self._release(sequence)
        self._preempted += 1
        sequence.state, sequence.block_names = State.WAITING, None
        self._waiting.appendleft(sequence)
        self._promised_blocks += self._need(sequence)

    def _name_prompt(self, chunk: Chunk) -> None:
        if self._prefix_reuse and chunk.last:
            self._name(chunk.sequence, chunk.sequence.block_names or ())

    def _name_answer(self, sequence: Sequence) -> None:
        """The newest token has not been read, unless it is being read now."""
        if self._prefix_reuse and sequence.sequence_id not in self._reading:
            self._name(sequence, self._names(sequence, sequence.tokens[:-1]))

    def _names(self, sequence: Sequence, tokens: tuple[int, ...]) -> tuple[bytes, ...]:
        return tuple(block_names(tokens, self._blocks.block_tokens, sequence.cache_salt))

    def _name(self, sequence: Sequence, names: tuple[bytes, ...]) -> None:
        for block, name in zip(sequence.blocks, names, strict=False):
            self._blocks.name(block, name)
