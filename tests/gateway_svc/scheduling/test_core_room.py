"""What an engine has room for: KV tokens, and credits while reports are late."""

from __future__ import annotations

from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.picker import LOOK_AHEAD
from tests.gateway_svc.scheduling.jobs import ENGINE, WIDE, core_of, ids, job

# KV tokens -------------------------------------------------------------------


def test_a_job_that_does_not_fit_is_passed_by_smaller_ones() -> None:
    core = core_of()
    core.join(ENGINE, Room(8, 1000))
    core.submit(job(1, 1.0, max_tokens=5000))
    core.submit(job(2, 5.0, max_tokens=400))
    core.submit(job(3, 9.0, max_tokens=400))
    assert ids(core.next_batch(ENGINE, 4.0)) == [2, 3]
    assert [each.job_id for each in core.waiting()] == [1]


def test_a_job_is_passed_at_most_max_passes_times_even_within_a_batch() -> None:
    core = core_of(max_passes=2)
    core.join(ENGINE, Room(8, 1000))
    core.submit(job(1, 1.0, max_tokens=2000))
    for number in (2, 3, 4, 5):
        core.submit(job(number, 5.0, max_tokens=10))
    assert ids(core.next_batch(ENGINE, 6.0)) == [2, 3]
    core.credit(ENGINE, Room(8, 1000), batch_id=1)
    assert core.next_batch(ENGINE, 6.0) is None
    core.credit(ENGINE, Room(8, 2500), batch_id=1)
    assert ids(core.next_batch(ENGINE, 6.0)) == [1, 4, 5]


def test_what_starts_before_a_job_in_the_order_has_not_passed_it() -> None:
    core = core_of(max_passes=2)
    core.join(ENGINE, Room(8, 1000))
    core.submit(job(1, 1.0, max_tokens=10))
    core.submit(job(2, 2.0, max_tokens=2000))
    core.submit(job(3, 3.0, max_tokens=10))
    assert ids(core.next_batch(ENGINE, 4.0)) == [1, 3]
    core.submit(job(4, 3.0, max_tokens=10))
    assert ids(core.next_batch(ENGINE, 4.0)) == [4]
    core.submit(job(5, 3.0, max_tokens=10))
    assert core.next_batch(ENGINE, 4.0) is None


def test_a_decision_looks_past_a_limited_number_of_jobs_that_do_not_fit() -> None:
    core = core_of(max_passes=1000)
    core.join(ENGINE, Room(8, 1000))
    for number in range(LOOK_AHEAD):
        core.submit(job(number, 1.0, max_tokens=2000))
    core.submit(job(LOOK_AHEAD, 5.0, max_tokens=10))
    assert core.next_batch(ENGINE, 4.0) is None
    core.cancel(0)
    assert ids(core.next_batch(ENGINE, 4.0)) == [LOOK_AHEAD]


def test_what_no_engine_here_can_hold_waits_aside_until_one_joins() -> None:
    core = core_of(max_passes=0)
    core.join("small", WIDE, max_job_tokens=500)
    core.submit(job(1, 1.0, max_tokens=2000))
    core.submit(job(2, 5.0, max_tokens=10))
    assert ids(core.next_batch("small", 3.0)) == [2]
    assert (core.waiting_count, core.next_batch("small", 3.0)) == (1, None)
    core.join("large", WIDE)
    assert ids(core.next_batch("large", 3.0)) == [1]
    core.check()


def test_what_waits_aside_is_cancelled_and_expires_like_any_other() -> None:
    core = core_of()
    core.join("small", WIDE, max_job_tokens=500)
    core.submit(job(1, max_tokens=2000))
    core.submit(job(2, max_tokens=2000, deadline_s=5.0))
    core.submit(job(3, max_tokens=2000))
    core.reprice(3, 7.0)
    assert core.cancel(1) is None
    assert [each.job_id for each, _ in core.expire(5.0)] == [2]
    core.leave("small")
    assert [(each.job_id, each.predicted_tokens) for each in core.waiting()] == [(3, 7.0)]
    core.check()


def test_memory_may_be_reserved_for_less_than_the_longest_answer() -> None:
    core = core_of()
    core.join(ENGINE, Room(8, 1000))
    for number in (1, 2, 3):
        core.submit(job(number, max_tokens=900, reserved_kv_tokens=400))
    assert ids(core.next_batch(ENGINE, 4.0)) == [1, 2]


def test_with_no_passes_the_first_that_does_not_fit_holds_up_the_rest() -> None:
    core = core_of(max_passes=0)
    core.join(ENGINE, Room(8, 1000))
    core.submit(job(1, 1.0, max_tokens=10))
    core.submit(job(2, 2.0, max_tokens=2000))
    core.submit(job(3, 3.0, max_tokens=10))
    assert ids(core.next_batch(ENGINE, 4.0)) == [1]


def test_passes_survive_a_reprice() -> None:
    core = core_of(max_passes=1)
    core.join(ENGINE, Room(8, 1000))
    core.submit(job(1, 1.0, max_tokens=2000))
    core.submit(job(2, 5.0, max_tokens=10))
    core.submit(job(3, 6.0, max_tokens=10))
    assert ids(core.next_batch(ENGINE, 4.0)) == [2]
    core.reprice(1, 2.0)
    assert core.next_batch(ENGINE, 4.0) is None


def test_a_job_that_was_repriced_there_and_back_is_passed_once_at_a_time() -> None:
    core = core_of(max_passes=2)
    core.join(ENGINE, Room(8, 1000))
    core.submit(job(1, 1.0, max_tokens=2000))
    core.reprice(1, 2.0)
    core.reprice(1, 1.0)
    for number in (2, 3):
        core.submit(job(number, 5.0, max_tokens=10))
        assert ids(core.next_batch(ENGINE, 6.0)) == [number]


def test_a_job_that_an_engine_can_never_hold_neither_blocks_it_nor_starts_there() -> None:
    core = core_of(max_passes=0)
    core.join("small", WIDE, max_job_tokens=500)
    core.join("large", WIDE)
    core.submit(job(1, 1.0, max_tokens=2000))
    core.submit(job(2, 5.0, max_tokens=10))
    assert ids(core.next_batch("small", 3.0)) == [2]
    assert ids(core.next_batch("large", 3.0)) == [1]


# The bound --------------------------------------------------------------------


def test_the_batch_that_may_overtake_is_that_of_the_largest_engine() -> None:
    core = core_of("bounded-ssjf", longest_answer_tokens=10)
    core.submit(job(1, 900.0))
    (lane,) = core._book.lanes.values()
    assert lane.bound is not None
    slacks = []
    for engine, places in (("a", 4), ("b", 2), ("c", 8), ("d", 10**6)):
        core.join(engine, WIDE, max_sequences=places)
        slacks.append(lane.bound.slack)
    assert slacks == [40, 40, 80, 2560]
    core.leave("d")
    assert lane.bound.slack == 2560


# Credits ---------------------------------------------------------------------


def test_a_late_report_does_not_free_what_is_still_on_its_way() -> None:
    core = core_of()
    core.join(ENGINE, Room(2, 100_000))
    for number in (1, 2, 3):
        core.submit(job(number))
    assert ids(core.next_batch(ENGINE, 4.0)) == [1, 2]
    core.credit(ENGINE, Room(2, 100_000), batch_id=0)
    assert core.next_batch(ENGINE, 4.0) is None
    core.credit(ENGINE, Room(0, 98_000), batch_id=1)
    assert core.next_batch(ENGINE, 4.0) is None
    core.credit(ENGINE, Room(1, 99_000), batch_id=1)
    assert ids(core.next_batch(ENGINE, 4.0)) == [3]


def test_an_engine_without_a_free_place_gets_nothing() -> None:
    core = core_of()
    core.join(ENGINE, Room(0, 100_000))
    core.submit(job(1))
    assert core.next_batch(ENGINE, 2.0) is None
    assert core.waiting_count == 1
