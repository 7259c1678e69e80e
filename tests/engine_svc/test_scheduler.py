from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine_svc.blocks import BlockAccounting
from engine_svc.scheduler import Capacity, Scheduler
from engine_svc.sequence import State

from .turns import make_sequence


def scheduler(total_blocks: int = 8, max_sequences: int = 3, prefill: int = 100) -> Scheduler:
    return Scheduler(
        BlockAccounting(total_blocks, block_tokens=16),
        max_sequences=max_sequences,
        max_prefill_tokens=prefill,
    )


def test_a_new_sequence_is_prefilled_once_and_then_decodes() -> None:
    schedule = scheduler()
    sequence = make_sequence(1)
    schedule.add(sequence)
    assert schedule.schedule().prefill == (sequence,)
    step = schedule.schedule()
    assert (step.prefill, step.decode) == ((), (sequence,))


def test_new_sequences_join_while_others_decode() -> None:
    schedule = scheduler()
    first, second = make_sequence(1), make_sequence(2)
    schedule.add(first)
    schedule.schedule()
    schedule.add(second)
    step = schedule.schedule()
    assert (step.prefill, step.decode) == ((second,), (first,))


def test_sequences_start_in_the_order_in_which_they_came() -> None:
    schedule = scheduler(total_blocks=2)
    large, small = make_sequence(1, max_tokens=40), make_sequence(2)
    held = make_sequence(3)
    for sequence in (held, large, small):
        schedule.add(sequence)
    # The large one does not fit beside the first, and nobody passes it by.
    assert schedule.schedule().prefill == (held,)
    assert small.state is State.WAITING


def test_a_sequence_waits_for_a_place() -> None:
    schedule = scheduler(max_sequences=1)
    first, second = make_sequence(1), make_sequence(2)
    schedule.add(first)
    schedule.add(second)
    assert schedule.schedule().prefill == (first,)
    schedule.end(first)
    assert schedule.schedule().prefill == (second,)


def test_prompts_beyond_the_budget_of_a_step_come_in_the_next() -> None:
    schedule = scheduler(prefill=10)
    sequences = [make_sequence(i, prompt=range(6)) for i in range(2)]
    for sequence in sequences:
        schedule.add(sequence)
    assert schedule.schedule().prefill == (sequences[0],)
    assert schedule.schedule().prefill == (sequences[1],)


def test_a_first_prompt_longer_than_the_budget_runs_all_the_same() -> None:
    schedule = scheduler(prefill=10)
    sequence = make_sequence(1, prompt=range(50))
    schedule.add(sequence)
    assert schedule.schedule().prefill == (sequence,)


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
    sequence.blocks = ()
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


lengths = st.tuples(st.integers(1, 60), st.integers(1, 60))
events = st.lists(st.one_of(st.none(), st.integers(0, 9), lengths), max_size=40)


@given(events)
def test_any_order_of_events_keeps_the_books_right(
    events: list[int | tuple[int, int] | None],
) -> None:
    schedule = scheduler()
    for number, event in enumerate(events):
        if isinstance(event, tuple):
            new = make_sequence(number, prompt=range(event[0]), max_tokens=event[1])
            if schedule.can_ever_hold(new):
                schedule.add(new)
        elif event is None:
            schedule.schedule()
        else:
            schedule.cancel([event])
        schedule.check()
        free = schedule.capacity()
        assert free.free_sequences >= 0
        assert free.free_kv_tokens >= 0
    schedule.cancel_all()
    assert schedule.capacity() == Capacity(3, 128, 0)
