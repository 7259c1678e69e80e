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
    batcher.put(entries, now)
    return batcher


@pytest.mark.parametrize("busy", [False, True])
def test_nothing_is_due_while_nothing_waits(busy: bool) -> None:
    batcher: MicroBatcher[str] = MicroBatcher(LIMITS)
    assert batcher.due(busy) is None
    assert batcher.take(1e9, busy, everyone) == []


def test_an_idle_model_waits_for_no_company() -> None:
    assert filled("a", now=5.0).take(5.0, False, everyone) == ["a"]


def test_while_a_batch_runs_a_lone_prompt_waits_for_company_only_so_long() -> None:
    batcher = filled("a", now=5.0)
    assert batcher.due(True) == pytest.approx(5.010)
    assert batcher.take(5.009, True, everyone) == []
    assert batcher.take(5.011, True, everyone) == ["a"]


def test_prompts_of_several_calls_make_one_batch() -> None:
    batcher = filled("a", now=0.0)
    batcher.put(["b"], 0.005)
    assert batcher.take(0.010, True, everyone) == ["a", "b"]


def test_a_full_batch_starts_at_once_and_the_rest_stays() -> None:
    batcher = filled(*"abcdef", now=0.0)
    assert batcher.take(0.0, True, everyone) == list("abcd")
    assert batcher.take(0.0, True, everyone) == []
    assert batcher.take(0.010, True, everyone) == list("ef")


def test_what_nobody_waits_for_is_dropped_and_makes_room() -> None:
    batcher = filled(*"abcdef", now=0.0)
    assert batcher.take(0.0, True, lambda entry: entry not in "abc") == list("def")
    assert batcher.waiting == 0


def test_a_call_is_queued_whole_or_not_at_all() -> None:
    batcher = filled(*"abcdefgh")
    with pytest.raises(BatcherFull, match="8 prompts wait, the limit is 10"):
        batcher.put(list("ijk"), 0.0)
    assert batcher.waiting == 8
    batcher.put(list("ij"), 0.0)


def test_a_batch_frees_its_places_when_it_starts() -> None:
    batcher = filled(*"abcdefghij")
    batcher.take(0.0, False, everyone)
    batcher.put(list("klmn"), 0.0)
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


def test_where_a_run_is_dear_a_small_group_joins_the_next_longer_one() -> None:
    lengths = [10, 100, 120, 500]
    groups = group_by_length(lengths, run_cost_tokens=200)
    assert [(each.rows, each.padded_tokens) for each in groups] == [((1, 2, 0), 128), ((3,), 512)]


@given(st.lists(st.integers(1, 700), max_size=64), st.integers(0, 10_000))
def test_joined_groups_hold_every_row_once_and_fit(lengths: list[int], cost: int) -> None:
    groups = group_by_length(lengths, cost)
    assert sorted(row for group in groups for row in group.rows) == list(range(len(lengths)))
    assert all(lengths[row] <= group.padded_tokens for group in groups for row in group.rows)
