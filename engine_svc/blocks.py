"""Accounts for the blocks of the KV cache: which are free, which are taken.

Pure; it knows neither tensors nor sequences. The scheduler asks first
(`can_allocate`) and then takes (`allocate`). Block 0 is never handed out: it is the
padding of block tables and stays zero.
"""

from __future__ import annotations

from collections.abc import Iterable

PADDING_BLOCK = 0


class BlockAccounting:
    """The blocks 1 … `total_blocks`, each of `block_tokens` tokens."""

    def __init__(self, total_blocks: int, block_tokens: int) -> None:
        self.total_blocks = total_blocks
        self.block_tokens = block_tokens
        # Taken from the end: a block that was just freed is the next to be used.
        self._free = list(range(total_blocks, PADDING_BLOCK, -1))
        self._taken: set[int] = set()

    def blocks_for(self, tokens: int) -> int:
        """Blocks that hold `tokens` tokens."""
        return -(-tokens // self.block_tokens)

    @property
    def free_blocks(self) -> int:
        """Blocks that nobody has."""
        return len(self._free)

    def can_allocate(self, blocks: int) -> bool:
        """Whether `allocate(blocks)` would succeed now."""
        return blocks <= len(self._free)

    def allocate(self, blocks: int) -> tuple[int, ...]:
        """Takes `blocks` blocks. Raises ValueError where `can_allocate` says no."""
        if not self.can_allocate(blocks):
            raise ValueError(f"{blocks} blocks asked for, {len(self._free)} are free")
        taken = tuple(self._free.pop() for _ in range(blocks))
        self._taken.update(taken)
        return taken

    def free(self, blocks: Iterable[int]) -> None:
        """Gives blocks back. Raises ValueError for one that is not taken."""
        for block in blocks:
            if block not in self._taken:
                raise ValueError(f"block {block} is not taken")
            self._taken.remove(block)
            self._free.append(block)

    def check(self) -> None:
        """Raises RuntimeError unless every block is either free or taken, exactly once."""
        free = set(self._free)
        if len(free) != len(self._free) or free & self._taken:
            raise RuntimeError("KV blocks are counted twice")
        if free | self._taken != set(range(1, self.total_blocks + 1)):
            raise RuntimeError("KV blocks are lost")
