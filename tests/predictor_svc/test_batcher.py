from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from predictor_svc.batcher import (
    BatcherFull,
    BatchLimits,
    MicroBatcher,
    bucket_of,
    group_by_length,
)

LIMITS = BatchLimits(max_batch=4, max_wait_s=0.010, max_queue_items=10)


def everyone(_: str) -> bool:
    return True


def filled(*entries: str, now: float = 0.0) -> MicroBatcher[str]:
    batcher: MicroBatcher[str] = MicroBatcher(LIMITS)
    batcher.admit(len(entries))
    batcher.put(entries, now)
    return batcher


def test_nothing_is_due_while_nothing_waits() -> None:
    batcher: MicroBatcher[str] = MicroBatcher(LIMITS)
    assert batcher.due() is None
    assert batcher.take(1e9, everyone) == []


def test_a_lone_prompt_waits_for_company_only_so_long() -> None:
    batcher = filled("a", now=5.0)
    assert batcher.due() == pytest.approx(5.010)
    assert batcher.take(5.009, everyone) == []
    assert batcher.take(5.011, everyone) == ["a"]


def test_prompts_of_several_calls_make_one_batch() -> None:
    batcher = filled("a", now=0.0)
    batcher.admit(1)
    batcher.put(["b"], 0.005)
    assert batcher.take(0.010, everyone) == ["a", "b"]


def test_a_full_batch_starts_at_once_and_the_rest_stays() -> None:
    batcher = filled(*"abcdef", now=0.0)
    assert batcher.take(0.0, everyone) == list("abcd")
    assert batcher.take(0.0, everyone) == []
    assert batcher.take(0.010, everyone) == list("ef")


def test_what_nobody_waits_for_is_dropped_and_makes_room() -> None:
    batcher = filled(*"abcdef", now=0.0)
    assert batcher.take(0.0, lambda entry: entry not in "abc") == list("def")
    assert batcher.waiting == 0


def test_a_call_is_admitted_whole_or_not_at_all() -> None:
    batcher = filled(*"abcdefgh")
    with pytest.raises(BatcherFull, match="8 prompts wait, the limit is 10"):
        batcher.admit(3)
    assert batcher.waiting == 8
    batcher.admit(2)


def test_prompts_being_tokenised_count_against_the_bound() -> None:
    batcher: MicroBatcher[str] = MicroBatcher(LIMITS)
    batcher.admit(10)
    with pytest.raises(BatcherFull):
        batcher.admit(1)
    batcher.withdraw(10)
    assert batcher.waiting == 0


def test_a_batch_frees_its_places_when_it_starts() -> None:
    batcher = filled(*"abcdefghij")
    batcher.take(0.0, everyone)
    batcher.admit(4)
    assert batcher.waiting == 10


@given(st.lists(st.integers(1, 700), max_size=64))
def test_groups_hold_every_row_once_in_a_bucket_that_fits(lengths: list[int]) -> None:
    groups = group_by_length(lengths)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(lengths)))
    for group in groups:
        assert all(bucket_of(lengths[row]) == group.padded_tokens for row in group.rows)
        assert all(lengths[row] <= group.padded_tokens for row in group.rows)
    assert [group.padded_tokens for group in groups] == sorted(
        {bucket_of(length) for length in lengths}
    )
