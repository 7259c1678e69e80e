"""What the scheduler does with KV cache: sharing it, growing into it, giving way for it."""

from __future__ import annotations

from engine_svc.scheduler import Capacity
from engine_svc.sequence import State

from .scheduling import read, sampled, scheduler
from .turns import make_sequence

# Prefix reuse.


def test_a_prompt_that_begins_alike_is_read_from_where_it_differs() -> None:
    schedule = scheduler()
    first = make_sequence(1, prompt=range(40), max_tokens=4)
    second = make_sequence(2, prompt=[*range(35), 99], max_tokens=4)
    schedule.add(first)
    schedule.schedule()
    schedule.add(second)
    assert read(schedule.schedule()) == [(2, 32, 4, True)]
    assert second.blocks[:2] == first.blocks[:2]
    assert second.cached_prompt_tokens == 32


def test_the_last_token_of_a_prompt_is_always_read() -> None:
    schedule = scheduler()
    for i in range(2):
        schedule.add(make_sequence(i, prompt=range(32)))
        step = schedule.schedule()
    assert read(step) == [(1, 16, 16, True)]


def test_nothing_is_shared_between_salts() -> None:
    schedule = scheduler()
    schedule.add(make_sequence(1, prompt=range(32), cache_salt="one"))
    schedule.schedule()
    schedule.add(make_sequence(2, prompt=range(32), cache_salt="two"))
    assert read(schedule.schedule()) == [(2, 0, 32, True)]


def test_nothing_is_shared_where_reuse_is_off() -> None:
    schedule = scheduler(reuse=False)
    for i in range(2):
        schedule.add(make_sequence(i, prompt=range(32)))
        step = schedule.schedule()
    assert read(step) == [(1, 0, 32, True)]


def test_a_prompt_that_is_being_read_is_not_shared_yet() -> None:
    schedule = scheduler()
    schedule.add(make_sequence(1, prompt=range(32)))
    schedule.add(make_sequence(2, prompt=range(32)))
    assert read(schedule.schedule()) == [(1, 0, 32, True), (2, 0, 32, True)]


def test_an_answer_is_found_as_the_beginning_of_the_next_prompt() -> None:
    schedule = scheduler()
    sequence = make_sequence(1, prompt=range(10), max_tokens=30)
    schedule.add(sequence)
    for _ in range(30):
        sampled(schedule)
    schedule.end(sequence)
    schedule.add(make_sequence(2, prompt=[*range(10), *[7] * 30, 5, 6, 7]))
    # 40 tokens, of which the newest was never read: two full blocks.
    assert read(schedule.schedule()) == [(2, 32, 11, True)]


def test_what_a_failed_sequence_left_is_not_found() -> None:
    schedule = scheduler()
    first = make_sequence(1, prompt=range(32))
    schedule.add(first)
    schedule.schedule()
    held = list(first.blocks)
    assert schedule.fail(first) == held
    schedule.add(make_sequence(2, prompt=range(32)))
    assert read(schedule.schedule()) == [(2, 0, 32, True)]
    schedule.check()


def test_a_failed_sequence_leaves_alone_what_others_hold() -> None:
    schedule = scheduler()
    first, second = (make_sequence(i, prompt=range(32)) for i in (1, 2))
    for sequence in (first, second):
        schedule.add(sequence)
        schedule.schedule()
    shared, own = second.blocks[:1], second.blocks[1:]
    assert schedule.fail(second) == own
    assert first.blocks[:1] == shared
    schedule.check()


# Reservation of what is predicted, and preemption.


def test_a_sequence_that_outgrows_its_reservation_gets_block_by_block() -> None:
    schedule = scheduler()
    sequence = make_sequence(1, prompt=range(10), max_tokens=60, kv_reservation_tokens=20)
    schedule.add(sequence)
    held = []
    for _ in range(60):
        sampled(schedule)
        held.append(len(sequence.blocks))
        # What the step writes lies in a block: all tokens but the newest.
        assert sequence.length - 1 <= 16 * held[-1]
    assert held[0] == 2
    assert held[-1] == 5
    schedule.end(sequence)
    assert schedule.capacity() == Capacity(3, 128, 0)


def test_the_youngest_gives_way_where_memory_runs_out_and_goes_on_later() -> None:
    schedule = scheduler(total_blocks=5, reuse=False)
    old, young = (
        make_sequence(i, prompt=range(10), max_tokens=40, kv_reservation_tokens=16) for i in (1, 2)
    )
    schedule.add(old)
    schedule.add(young)
    preempted = 0
    for _ in range(200):
        preempted += sampled(schedule).preempted
        schedule.check()
        for sequence in (old, young):
            if sequence.state is State.RUNNING and len(sequence.output) == 40:
                schedule.end(sequence)
        if preempted and old.state is not State.ENDED:
            assert old.state is State.RUNNING
    assert preempted >= 1
    assert [s.state for s in (old, young)] == [State.ENDED, State.ENDED]
    assert len(young.output) == 40


def test_a_preempted_sequence_goes_before_those_that_wait() -> None:
    schedule = scheduler(total_blocks=3, max_sequences=2, reuse=False)
    old, young = (
        make_sequence(i, prompt=range(10), max_tokens=30, kv_reservation_tokens=16) for i in (1, 2)
    )
    waits = make_sequence(3, prompt=range(10), max_tokens=6)
    for sequence in (old, young, waits):
        schedule.add(sequence)
    while not sampled(schedule).preempted:
        pass
    assert young.state is State.WAITING
    schedule.end(old)
    assert schedule.schedule().started[0] is young
