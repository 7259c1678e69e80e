from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, rule

from engine_svc.blocks import PADDING_BLOCK, BlockAccounting

TOTAL = 12


def test_a_block_is_begun_for_its_first_token() -> None:
    blocks = BlockAccounting(TOTAL, block_tokens=16)
    assert [blocks.blocks_for(tokens) for tokens in (1, 16, 17)] == [1, 1, 2]


def test_more_than_is_free_is_refused_and_changes_nothing() -> None:
    blocks = BlockAccounting(TOTAL, block_tokens=16)
    with pytest.raises(ValueError, match="13 blocks asked for, 12 are free"):
        blocks.allocate(TOTAL + 1)
    assert blocks.free_blocks == TOTAL


def test_the_padding_block_is_never_handed_out() -> None:
    assert PADDING_BLOCK not in BlockAccounting(TOTAL, block_tokens=16).allocate(TOTAL)


def test_freeing_twice_is_refused() -> None:
    blocks = BlockAccounting(TOTAL, block_tokens=16)
    taken = blocks.allocate(2)
    blocks.free(taken)
    with pytest.raises(ValueError, match="is not taken"):
        blocks.free(taken)


def test_check_notices_a_lost_block() -> None:
    blocks = BlockAccounting(TOTAL, block_tokens=16)
    blocks._free.pop()
    with pytest.raises(RuntimeError, match="lost"):
        blocks.check()


def test_check_notices_a_block_that_is_counted_twice() -> None:
    blocks = BlockAccounting(TOTAL, block_tokens=16)
    blocks._free.append(blocks._free[0])
    with pytest.raises(RuntimeError, match="twice"):
        blocks.check()


class Accounting(RuleBasedStateMachine):
    """Any order of taking and giving back keeps the books right."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockAccounting(TOTAL, block_tokens=16)
        self.taken = 0

    @rule(target=held, count=st.integers(0, TOTAL))
    def take(self, count: int) -> tuple[int, ...]:
        if not self.blocks.can_allocate(count):
            assert count > TOTAL - self.taken
            return ()
        self.taken += count
        return self.blocks.allocate(count)

    @rule(blocks=consumes(held))
    def give_back(self, blocks: tuple[int, ...]) -> None:
        self.blocks.free(blocks)
        self.taken -= len(blocks)

    @invariant()
    def books_are_right(self) -> None:
        self.blocks.check()
        assert self.blocks.free_blocks == TOTAL - self.taken


TestAccounting = Accounting.TestCase
