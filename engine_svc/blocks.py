"""Accounts for the blocks of the KV cache: who holds them, and which hold known tokens.

Pure; it knows neither tensors nor sequences. The scheduler asks first (`can_allocate`)
and then takes (`allocate`). A block whose content has a name (`prefix` makes names)
stays findable after its last holder has gone, until its memory is needed: least
recently freed goes first. Block 0 is never handed out: it pads block tables.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

PADDING_BLOCK = 0


class BlockAccounting:
    """The blocks 1 … `total_blocks`, each of `block_tokens` tokens."""

    def __init__(self, total_blocks: int, block_tokens: int) -> None:
        self.total_blocks = total_blocks
        self.block_tokens = block_tokens
        # Taken from the end: a block that was just freed is the next to be used.
        self._empty = list(range(total_blocks, PADDING_BLOCK, -1))
        self._holders: dict[int, int] = {}
        # Held by nobody, but of known content; in the order in which they were freed.
        self._kept: dict[int, None] = {}
        self._named: dict[bytes, int] = {}
        self._name_of: dict[int, bytes] = {}

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody holds."""
        return len(self._empty) + len(self._kept)

    def can_allocate(self, blocks: int, sharing: Sequence[int] = ()) -> bool:
        """Whether `allocate(blocks)` would succeed after `share(sharing)`."""
        revived = sum(block in self._kept for block in sharing)
        return blocks <= self.free_blocks - revived

    def allocate(self, blocks: int) -> list[int]:
        """Takes `blocks` blocks. Raises ValueError where `can_allocate` says no."""
        if not self.can_allocate(blocks):
            raise ValueError(f"{blocks} blocks asked for, {self.free_blocks} are free")
        taken = [self._empty.pop() if self._empty else self._evict() for _ in range(blocks)]
        self._holders.update(dict.fromkeys(taken, 1))
        return taken

    def find(self, names: Iterable[bytes]) -> list[int]:
        """The blocks of as many of the first names as are known, without a gap."""
        found = []
        for name in names:
            if (block := self._named.get(name)) is None:
                break
            found.append(block)
        return found

    def share(self, blocks: Iterable[int]) -> None:
        """Becomes one more holder of blocks that `find` gave."""
        for block in blocks:
            self._kept.pop(block, None)
            self._holders[block] = self._holders.get(block, 0) + 1

    def own(self, blocks: Iterable[int]) -> list[int]:
        """Those of some held blocks that have no other holder."""
        return [block for block in blocks if self._holders[block] == 1]

    def name(self, block: int, name: bytes) -> None:
        """Makes a held block findable; nothing where it or another has a name for that already."""
        if block not in self._name_of and self._named.setdefault(name, block) == block:
            self._name_of[block] = name

    def forget(self, blocks: Iterable[int]) -> None:
        """Makes held blocks unfindable: what they hold is not to be trusted."""
        for block in blocks:
            if (name := self._name_of.pop(block, None)) is not None:
                del self._named[name]

    def free(self, blocks: Sequence[int]) -> None:
        """Gives blocks of one sequence back. Raises ValueError for one that nobody holds."""
        # From the last: of a chain of known blocks the end is to be evicted first.
        for block in reversed(blocks):
            holders = self._holders.get(block, 0)
            if holders == 0:
                raise ValueError(f"block {block} is not taken")
            if holders > 1:
                self._holders[block] = holders - 1
                continue
            del self._holders[block]
            if block in self._name_of:
                self._kept[block] = None
            else:
                self._empty.append(block)

    def check(self, held: Iterable[Sequence[int]], *, thorough: bool = True) -> None:
        """Raises RuntimeError unless every block is free, or held just by those in `held`.

        Not `thorough`, free blocks are counted only: there may be a hundred thousand of them.
        """
        counted: dict[int, int] = {}
        for blocks in held:
            for block in blocks:
                counted[block] = counted.get(block, 0) + 1
        if counted != self._holders:
            raise RuntimeError("KV blocks are held by no running sequence, or not counted")
        if self.free_blocks + len(self._holders) != self.total_blocks:
            raise RuntimeError("KV blocks are lost, or counted twice")
        if thorough:
            self._check_each()

    def _check_each(self) -> None:
        states = {*self._empty, *self._kept, *self._holders}
        if states != set(range(1, self.total_blocks + 1)):
            raise RuntimeError("KV blocks are lost, or counted twice")
        if self._name_of != {block: name for name, block in self._named.items()}:
            raise RuntimeError("names of KV blocks do not agree")

    def _evict(self) -> int:
        block = next(iter(self._kept))
        del self._kept[block]
        self.forget([block])
        return block
