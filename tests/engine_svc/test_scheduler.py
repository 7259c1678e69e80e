from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_svc.batching_mode import BatchingMode
from engine_svc.scheduler import Capacity
from engine_svc.sequence import State
from engine_svc.step import Cell

from .scheduling import read, read_first, sampled, scheduler
from .turns import make_sequence


def test_a_new_sequence_is_prefilled_once_and_then_decodes() -> None:
    schedule = scheduler()
    sequence = make_sequence(1)
    schedule.add(sequence)
    assert read(schedule.schedule()) == [(1, 0, 3, True)]
    step = schedule.schedule()
    assert (step.chunks, step.decode) == ((), (sequence,))


def test_new_sequences_join_while_others_decode() -> None:
    schedule = scheduler()
    first, second = make_sequence(1), make_sequence(2)
    schedule.add(first)
    schedule.schedule()
    schedule.add(second)
    step = schedule.schedule()
    assert (read_first(step), step.decode) == ([second], (first,))


def test_sequences_start_in_the_order_in_which_they_came() -> None:
    schedule = scheduler(total_blocks=2)
    large, small = make_sequence(1, max_tokens=40), make_sequence(2)
    held = make_sequence(3)
    for sequence in (held, large, small):
        schedule.add(sequence)
    # The large one does not fit beside the first, and nobody passes it by.
    assert schedule.schedule().sampled == (held,)
    assert small.state is State.WAITING


def test_a_sequence_waits_for_a_place() -> None:
    schedule = scheduler(max_sequences=1)
    first, second = make_sequence(1), make_sequence(2)
    schedule.add(first)
    schedule.add(second)
    assert schedule.schedule().sampled == (first,)
    schedule.end(first)
    assert schedule.schedule().sampled == (second,)


def test_prompts_beyond_the_budget_of_a_step_are_read_in_pieces() -> None:
    schedule = scheduler(prefill=10)
    for i in range(3):
        schedule.add(make_sequence(i, prompt=range(6)))
    assert read(schedule.schedule()) == [(0, 0, 6, True), (1, 0, 4, False)]
    step = schedule.schedule()
    assert read(step) == [(1, 4, 2, True), (2, 0, 6, True)]
    assert [s.sequence_id for s in step.sampled] == [1, 2, 0]


def test_a_long_prompt_does_not_hold_up_those_that_decode() -> None:
    schedule = scheduler(prefill=10)
    schedule.add(make_sequence(1))
    schedule.schedule()
    schedule.add(make_sequence(2, prompt=range(25)))
    steps = [schedule.schedule() for _ in range(4)]
    assert [read(step) for step in steps[:3]] == [
        [(2, 0, 10, False)],
        [(2, 10, 10, False)],
        [(2, 20, 5, True)],
    ]
    assert [[s.sequence_id for s in step.decode] for step in steps] == [[1], [1], [1], [1, 2]]


def test_ending_gives_place_and_blocks_back() -> None:
    schedule = scheduler()
    sequence = make_sequence(1)
    schedule.add(sequence)
    schedule.schedule()
    schedule.end(sequence)
    assert schedule.capacity() == Capacity(3, 128, 0)
    assert not schedule.has_work


def test_cancelling_reaches_waiting_and_running_and_ignores_the_unknown() -> None:
    schedule = scheduler(max_sequences=1)
    running, waiting = make_sequence(1), make_sequence(2)
    schedule.add(running)
    schedule.add(waiting)
    schedule.schedule()
    assert set(schedule.cancel([1, 2, 99])) == {running, waiting}
    assert schedule.capacity().running_sequences == 0
    schedule.check()


def test_waiting_sequences_count_as_running_in_what_is_free() -> None:
    schedule = scheduler()
    schedule.add(make_sequence(1, prompt=range(10), max_tokens=10))
    assert schedule.capacity() == Capacity(2, 96, 1)


def test_a_sequence_larger_than_the_whole_cache_is_known_beforehand() -> None:
    assert scheduler(total_blocks=2).can_ever_hold(make_sequence(1, max_tokens=29))
    assert not scheduler(total_blocks=2).can_ever_hold(make_sequence(1, max_tokens=30))


def test_check_notices_blocks_that_no_running_sequence_has() -> None:
    schedule = scheduler()
    sequence = make_sequence(1)
    schedule.add(sequence)
    schedule.schedule()
    sequence.blocks = []
    with pytest.raises(RuntimeError, match="by no running sequence"):
        schedule.check()


def test_check_notices_a_place_that_is_held_twice() -> None:
    schedule = scheduler()
    sequence = make_sequence(1)
    schedule.add(sequence)
    schedule.schedule()
    sequence.place = 2
    with pytest.raises(RuntimeError, match="places"):
        schedule.check()


def test_who_ends_by_length_is_known_beforehand() -> None:
    schedule = scheduler()
    schedule.add(make_sequence(1, max_tokens=3))
    steps = [schedule.schedule() for _ in range(4)]
    assert [len(step.sampled) for step in steps] == [1, 1, 1, 0]
    assert schedule.has_work  # until its last token has come


def test_the_decode_rows_are_the_same_object_while_nothing_changes() -> None:
    schedule = scheduler()
    schedule.add(make_sequence(1))
    schedule.schedule()
    first, second = schedule.schedule(), schedule.schedule()
    assert first.decode is second.decode


def test_the_block_table_is_told_of_what_starts() -> None:
    schedule = scheduler()
    sequence = make_sequence(1, prompt=range(20), max_tokens=10)
    schedule.add(sequence)
    cells = schedule.schedule().cells
    assert cells == tuple(Cell(sequence.place, i, b) for i, b in enumerate(sequence.blocks))
    assert schedule.schedule().cells == ()


# Batching modes.


def test_mode_none_runs_one_at_a_time() -> None:
    schedule = scheduler()
    schedule.batch_by(BatchingMode.NONE)
    first, second = make_sequence(1), make_sequence(2)
    schedule.add(first)
    schedule.add(second)
    assert schedule.schedule().sampled == (first,)
    assert schedule.capacity().free_sequences == 0
    schedule.end(first)
    assert schedule.schedule().sampled == (second,)


def test_a_dynamic_batch_takes_nobody_in_until_its_last_one_ends() -> None:
    schedule = scheduler()
    schedule.batch_by(BatchingMode.DYNAMIC)
    first, second, later = (make_sequence(i) for i in range(3))
    schedule.add(first)
    schedule.add(second)
    schedule.schedule()
    schedule.add(later)
    schedule.end(first)
    assert schedule.schedule().sampled == (second,)
    # The place of the first stays taken.
    assert schedule.capacity().free_sequences == 0
    assert schedule.capacity().running_sequences == 3
    schedule.check()
    schedule.end(second)
    assert schedule.schedule().sampled == (later,)
    schedule.end(later)
    assert schedule.capacity() == Capacity(3, 128, 0)


def test_a_dynamic_batch_whose_prompts_take_several_steps_starts_together() -> None:
    schedule = scheduler(prefill=10)
    schedule.batch_by(BatchingMode.DYNAMIC)
    for i in range(3):
        schedule.add(make_sequence(i, prompt=range(8)))
    started = [len(schedule.schedule().started) for _ in range(4)]
    assert sum(started) == 3


lengths = st.tuples(st.integers(1, 60), st.integers(1, 60), st.none() | st.integers(1, 60))
events = st.lists(st.one_of(st.none(), st.integers(0, 9), lengths), max_size=60)


@given(events, st.sampled_from(BatchingMode), st.integers(5, 100))
def test_any_order_of_events_keeps_the_books_right(
    events: list[int | tuple[int, int, int | None] | None], mode: BatchingMode, prefill: int
) -> None:
    schedule = scheduler(prefill=prefill)
    schedule.batch_by(mode)
    for number, event in enumerate(events):
        if isinstance(event, tuple):
            prompt, most, reserved = event
            new = make_sequence(
                number, prompt=range(prompt), max_tokens=most, kv_reservation_tokens=reserved
            )
            if schedule.can_ever_hold(new):
                schedule.add(new)
        elif event is None:
            for sequence in sampled(schedule).sampled:
                if len(sequence.output) == sequence.limit_tokens:
                    schedule.end(sequence)
        else:
            schedule.cancel([event])
        schedule.check()
        free = schedule.capacity()
        assert free.free_sequences >= 0
        assert free.free_kv_tokens >= 0
    schedule.cancel_all()
    assert schedule.capacity() == Capacity(1 if mode is BatchingMode.NONE else 3, 128, 0)


@given(
    st.lists(st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 60)), max_size=12),
    st.integers(5, 100),
)
def test_all_that_start_come_to_their_end(asked: list[tuple[int, int, int]], prefill: int) -> None:
    schedule = scheduler(prefill=prefill)
    sequences = [
        make_sequence(i, prompt=range(prompt), max_tokens=most, kv_reservation_tokens=reserved)
        for i, (prompt, most, reserved) in enumerate(asked)
    ]
    for sequence in sequences:
        schedule.add(sequence)
    for _ in range(5000):
        for sequence in sampled(schedule).sampled:
            if len(sequence.output) == sequence.limit_tokens:
                schedule.end(sequence)
    assert not schedule.has_work
    assert all(len(s.output) == s.params.max_tokens for s in sequences)
