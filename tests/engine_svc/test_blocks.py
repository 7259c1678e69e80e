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
    blocks._empty.pop()
    with pytest.raises(RuntimeError, match="lost"):
        blocks.check([], thorough=False)


def test_check_notices_a_block_that_is_counted_twice() -> None:
    blocks = BlockAccounting(TOTAL, block_tokens=16)
    blocks._empty[1] = blocks._empty[0]
    blocks.check([], thorough=False)
    with pytest.raises(RuntimeError, match="twice"):
        blocks.check([])


def test_named_blocks_are_found_up_to_the_first_unknown_name() -> None:
    blocks = BlockAccounting(TOTAL, block_tokens=16)
    first, second = blocks.allocate(2)
    blocks.name(first, b"a")
    blocks.name(second, b"c")
    assert blocks.find([b"a", b"b", b"c"]) == [first]


def test_a_name_stays_with_the_block_that_had_it_first() -> None:
    blocks = BlockAccounting(TOTAL, block_tokens=16)
    first, second = blocks.allocate(2)
    blocks.name(first, b"a")
    blocks.name(second, b"a")
    assert blocks.find([b"a"]) == [first]


def test_a_freed_block_is_found_until_its_memory_is_needed() -> None:
    blocks = BlockAccounting(2, block_tokens=16)
    held = blocks.allocate(2)
    for block, name in zip(held, (b"a", b"b"), strict=True):
        blocks.name(block, name)
    blocks.free(held)
    assert blocks.free_blocks == 2
    assert blocks.find([b"a", b"b"]) == held
    # The end of a chain goes first: what is before it is of use to more prompts.
    blocks.allocate(1)
    assert blocks.find([b"a", b"b"]) == held[:1]


def test_the_block_that_was_freed_longest_ago_is_evicted_first() -> None:
    blocks = BlockAccounting(2, block_tokens=16)
    first, second = blocks.allocate(2)
    blocks.name(first, b"a")
    blocks.name(second, b"b")
    blocks.free([first])
    blocks.free([second])
    assert blocks.allocate(1) == [first]


def test_a_shared_block_is_free_when_its_last_holder_gives_it_back() -> None:
    blocks = BlockAccounting(2, block_tokens=16)
    held = blocks.allocate(1)
    blocks.name(held[0], b"a")
    blocks.share(held)
    assert blocks.own(held) == []
    blocks.free(held)
    assert blocks.free_blocks == 1
    blocks.free(held)
    assert blocks.free_blocks == 2


def test_what_is_to_be_shared_cannot_be_allocated_too() -> None:
    blocks = BlockAccounting(2, block_tokens=16)
    held = blocks.allocate(1)
    blocks.name(held[0], b"a")
    blocks.free(held)
    assert blocks.can_allocate(2)
    assert not blocks.can_allocate(2, sharing=held)


def test_forgotten_blocks_are_not_found() -> None:
    blocks = BlockAccounting(2, block_tokens=16)
    held = blocks.allocate(1)
    blocks.name(held[0], b"a")
    blocks.forget(held)
    assert blocks.find([b"a"]) == []


class Accounting(RuleBasedStateMachine):
    """Any order of taking, naming, sharing and giving back keeps the books right."""

    held = Bundle("held")

    def __init__(self) -> None:
        super().__init__()
        self.blocks = BlockAccounting(TOTAL, block_tokens=16)
        self.out: list[list[int]] = []

    @rule(target=held, count=st.integers(0, TOTAL))
    def take(self, count: int) -> list[int]:
        if not self.blocks.can_allocate(count):
            assert count > TOTAL - self.taken()
            return []
        self.out.append(self.blocks.allocate(count))
        return self.out[-1]

    @rule(blocks=held, names=st.lists(st.sampled_from("abcdef"), max_size=TOTAL))
    def name(self, blocks: list[int], names: list[str]) -> None:
        for block, name in zip(blocks, names, strict=False):
            self.blocks.name(block, name.encode())

    @rule(target=held, names=st.lists(st.sampled_from("abcdef"), max_size=4, unique=True))
    def share(self, names: list[str]) -> list[int]:
        found = self.blocks.find([name.encode() for name in names])
        self.blocks.share(found)
        self.out.append(found)
        return found

    @rule(blocks=held)
    def forget(self, blocks: list[int]) -> None:
        self.blocks.forget(blocks)

    @rule(blocks=consumes(held))
    def give_back(self, blocks: list[int]) -> None:
        if blocks:
            self.out.remove(blocks)
            self.blocks.free(blocks)

    @invariant()
    def books_are_right(self) -> None:
        self.blocks.check(self.out)
        assert self.blocks.free_blocks == TOTAL - self.taken()

    def taken(self) -> int:
        return len({block for blocks in self.out for block in blocks})


TestAccounting = Accounting.TestCase
