from __future__ import annotations

import pytest

from gateway_svc.scheduling.core import Departure
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.expiries import Expiry
from gateway_svc.scheduling.invariants import BrokenInvariant
from gateway_svc.scheduling.job import Priority
from gateway_svc.scheduling.lines import KeyedLine
from gateway_svc.scheduling.quota import CoreFull
from tests.gateway_svc.scheduling.jobs import ENGINE, WIDE, core_of, ids, job

# Order -----------------------------------------------------------------------


def test_the_shortest_predicted_job_starts_first() -> None:
    core = core_of()
    core.join(ENGINE, Room(1, 100_000))
    for number, tokens in ((1, 300.0), (2, 20.0), (3, 100.0)):
        core.submit(job(number, tokens))
    assert [each.job_id for each in core.waiting()] == [2, 3, 1]
    assert ids(core.next_batch(ENGINE, 9.0)) == [2]


def test_a_batch_is_in_the_order_of_the_schedule() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    for number, tokens in ((1, 300.0), (2, 20.0), (3, 100.0)):
        core.submit(job(number, tokens))
    assert ids(core.next_batch(ENGINE, 9.0)) == [2, 3, 1]


@pytest.mark.parametrize("policy", ["fcfs", "ssjf"])
def test_ties_go_by_arrival(policy: str) -> None:
    core = core_of(policy)
    core.join(ENGINE, WIDE)
    for number in (7, 3, 5):
        core.submit(job(number, 50.0, arrival_s=1.0))
    assert ids(core.next_batch(ENGINE, 9.0)) == [7, 3, 5]


def test_a_higher_class_goes_first_however_long_it_is() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1, 60.0, priority=Priority.BATCH))
    core.submit(job(2, 5.0, priority=Priority.STANDARD))
    core.submit(job(3, 900.0, priority=Priority.URGENT))
    assert ids(core.next_batch(ENGINE, 9.0)) == [3, 2, 1]


def test_a_prediction_beyond_max_tokens_counts_as_max_tokens() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1, 50.0))
    core.submit(job(2, 900.0, max_tokens=20))
    assert ids(core.next_batch(ENGINE, 9.0)) == [2, 1]


# Repricing -------------------------------------------------------------------


def test_repricing_moves_a_waiting_job() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1, 50.0))
    core.submit(job(2, 90.0))
    assert core.reprice(2, 10.0)
    assert [each.predicted_tokens for each in core.waiting()] == [10.0, 50.0]
    assert ids(core.next_batch(ENGINE, 9.0)) == [2, 1]


def test_repricing_there_and_back_starts_a_job_once() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1, 50.0))
    core.reprice(1, 10.0)
    core.reprice(1, 50.0)
    assert ids(core.next_batch(ENGINE, 9.0)) == [1]
    assert core.next_batch(ENGINE, 9.0) is None


def test_repricing_keeps_the_place_of_arrival_among_equals() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1, 90.0))
    core.submit(job(2, 10.0))
    core.reprice(1, 10.0)
    assert ids(core.next_batch(ENGINE, 9.0)) == [1, 2]


@pytest.mark.parametrize("state", ["running", "cancelled", "unknown"])
def test_a_job_that_does_not_wait_is_not_repriced(state: str) -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    if state != "unknown":
        core.submit(job(1))
    if state == "running":
        core.next_batch(ENGINE, 2.0)
    if state == "cancelled":
        core.cancel(1)
    assert not core.reprice(1, 5.0)
    assert core.waiting() == []


# Bounds ----------------------------------------------------------------------


def test_a_full_queue_refuses_and_forgets() -> None:
    core = core_of(max_queued=2)
    core.submit(job(1))
    core.submit(job(2))
    with pytest.raises(CoreFull):
        core.submit(job(3))
    core.cancel(1)
    core.submit(job(3))
    assert core.waiting_count == 2


def test_running_jobs_take_no_place_in_the_queue() -> None:
    core = core_of(max_queued=1)
    core.join(ENGINE, WIDE)
    core.submit(job(1))
    core.next_batch(ENGINE, 1.0)
    core.submit(job(2))
    assert (core.waiting_count, core.running_count) == (1, 1)


def test_an_id_in_use_is_refused() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1))
    with pytest.raises(ValueError, match="already here"):
        core.submit(job(1))
    core.next_batch(ENGINE, 1.0)
    with pytest.raises(ValueError, match="already here"):
        core.submit(job(1))


# Cancelling and expiring -----------------------------------------------------


def test_cancelling_a_waiting_job_forgets_it() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1))
    assert core.cancel(1) is None
    assert core.next_batch(ENGINE, 2.0) is None


def test_cancelling_a_running_job_names_its_engine() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1))
    core.next_batch(ENGINE, 2.0)
    assert core.cancel(1) == ENGINE
    assert core.cancel(1) is None
    assert core.running_count == 0


def test_a_cancelled_jobs_place_is_free_only_when_the_engine_says_so() -> None:
    core = core_of()
    core.join(ENGINE, Room(1, 100_000))
    core.submit(job(1))
    core.submit(job(2))
    core.next_batch(ENGINE, 3.0)
    core.cancel(1)
    assert core.next_batch(ENGINE, 3.0) is None
    core.credit(ENGINE, Room(1, 100_000), batch_id=1)
    assert ids(core.next_batch(ENGINE, 3.0)) == [2]


def test_a_passed_deadline_and_a_long_wait_are_told_apart() -> None:
    core = core_of(queue_timeout_s=10.0)
    core.submit(job(1, arrival_s=0.0, deadline_s=4.0))
    core.submit(job(2, arrival_s=0.0))
    core.submit(job(3, arrival_s=5.0, deadline_s=99.0))
    assert core.next_expiry_s() == 4.0
    assert [(each.job_id, why) for each, why in core.expire(4.0)] == [(1, Expiry.DEADLINE)]
    assert core.next_expiry_s() == 10.0
    assert [(each.job_id, why) for each, why in core.expire(10.0)] == [(2, Expiry.QUEUE_TIMEOUT)]
    assert core.next_expiry_s() == 15.0
    assert core.waiting_count == 1


def test_nothing_expires_that_runs() -> None:
    core = core_of(queue_timeout_s=10.0)
    core.join(ENGINE, WIDE)
    core.submit(job(1, arrival_s=0.0, deadline_s=5.0))
    core.next_batch(ENGINE, 1.0)
    assert core.expire(99.0) == []
    assert core.next_expiry_s() == float("inf")
    assert core.running_count == 1


def test_an_expired_job_is_not_started_before_it_is_dropped() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1, 1.0, deadline_s=4.0))
    core.submit(job(2, 9.0))
    assert ids(core.next_batch(ENGINE, 4.0)) == [2]
    assert [each.job_id for each, _ in core.expire(4.0)] == [1]


# Engines ---------------------------------------------------------------------


def test_what_a_lost_engine_had_not_answered_waits_again_at_its_old_place() -> None:
    core = core_of("fcfs")
    core.join(ENGINE, Room(3, 100_000))
    for number in (1, 2, 3):
        core.submit(job(number))
    core.next_batch(ENGINE, 4.0)
    core.submit(job(4))
    core.has_output(2)
    departure = core.leave(ENGINE)
    assert departure == Departure(requeued=(job(1), job(3)), lost=(job(2),))
    core.join(ENGINE, WIDE)
    assert ids(core.next_batch(ENGINE, 5.0)) == [1, 3, 4]


def test_among_equals_a_requeued_job_goes_before_those_that_came_later() -> None:
    core = core_of()
    core.join(ENGINE, Room(1, 100_000))
    core.submit(job(1, 50.0))
    core.next_batch(ENGINE, 2.0)
    core.submit(job(2, 50.0))
    core.leave(ENGINE)
    core.join(ENGINE, WIDE)
    assert ids(core.next_batch(ENGINE, 3.0)) == [1, 2]


def test_a_requeued_job_can_still_expire() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1, deadline_s=6.0))
    core.next_batch(ENGINE, 2.0)
    assert core.next_expiry_s() == float("inf")
    core.leave(ENGINE)
    assert core.next_expiry_s() == 6.0
    assert len(core.expire(6.0)) == 1


def test_an_engine_that_leaves_keeps_the_others_jobs_running() -> None:
    core = core_of()
    core.join("a", Room(1, 100_000))
    core.join("b", Room(1, 100_000))
    core.submit(job(1))
    core.submit(job(2))
    core.next_batch("a", 3.0)
    core.next_batch("b", 3.0)
    core.leave("a")
    assert [(each.job_id, engine) for each, engine in core.running()] == [(2, "b")]
    assert (core.engine_of(2), core.engine_of(1)) == ("b", None)


def test_an_engine_joins_once() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    with pytest.raises(ValueError, match="already joined"):
        core.join(ENGINE, WIDE)


def test_batches_are_numbered_from_one_on_each_engine() -> None:
    core = core_of()
    core.join("a", Room(1, 100_000))
    core.join("b", Room(1, 100_000))
    for number in (1, 2, 3):
        core.submit(job(number))
    first, second = core.next_batch("a", 4.0), core.next_batch("b", 4.0)
    core.credit("a", Room(1, 100_000), batch_id=1)
    third = core.next_batch("a", 4.0)
    assert [batch.batch_id for batch in (first, second, third) if batch] == [1, 1, 2]


def test_a_dropped_job_is_told_once_even_if_a_decision_came_first() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1, deadline_s=4.0))
    core.submit(job(2, deadline_s=4.0))
    assert core.next_batch(ENGINE, 5.0) is None
    assert core.waiting_count == 0
    assert core.next_expiry_s() < 5.0
    assert core.cancel(2) is None
    assert [each.job_id for each, _ in core.expire(5.0)] == [1]
    assert core.expire(5.0) == []


def test_progress_makes_a_job_one_that_cannot_start_again() -> None:
    core = core_of()
    core.join(ENGINE, WIDE)
    core.submit(job(1))
    core.submit(job(2))
    core.next_batch(ENGINE, 3.0)
    core.progress(1, 7)
    core.progress(2, 0)
    departure = core.leave(ENGINE)
    assert ([each.job_id for each in departure.lost], core.waiting()) == ([1], [job(2)])


def test_what_a_lost_engine_did_in_vain_does_not_count_against_its_tenant() -> None:
    core = core_of()
    core.join(ENGINE, Room(1, 100_000))
    core.submit(job(1, 50.0, tenant="unlucky"))
    core.submit(job(2, 60.0, tenant="unlucky"))
    core.next_batch(ENGINE, 3.0)
    core.leave(ENGINE)
    (lane,) = core.lanes()
    assert (lane.served_tokens, lane.running_tokens, lane.waiting) == (0.0, 0.0, 2)


def test_a_lost_engine_makes_no_job_due_earlier() -> None:
    core = core_of("bounded-ssjf")
    core.join(ENGINE, Room(1, 100_000))
    core.submit(job(1, 500.0))
    core.next_batch(ENGINE, 3.0)
    core.submit(job(2, 900.0))
    core.leave(ENGINE)
    core.join(ENGINE, Room(1, 100_000))
    core.submit(job(3, 1.0))
    assert ids(core.next_batch(ENGINE, 4.0)) == [1]
    # Job 2 had 500 tokens ahead of it and is due once 650 have been started: not twice the 500.
    assert [each.job_id for each in core.waiting()] == [3, 2]


def test_what_a_client_has_seen_of_a_cancelled_answer_counts_in_the_bound() -> None:
    core = core_of("bounded-ssjf", longest_answer_tokens=1)
    core.join(ENGINE, Room(1, 100_000))
    core.submit(job(1, 100.0, max_tokens=100))
    core.submit(job(2, 900.0, max_tokens=900))
    core.submit(job(3, 1.0, max_tokens=200))
    core.next_batch(ENGINE, 3.0)
    (lane,) = core._book.lanes.values()
    assert lane.bound is not None
    entry = core._book.entries[1]
    before = lane.bound.budget_tokens(entry)
    core.progress(3, 40)
    core.cancel(3)
    assert lane.bound.budget_tokens(entry) == before + 160


# Invariants ------------------------------------------------------------------


def test_what_leaves_the_queue_leaves_no_trace_behind_a_job_that_waits_on() -> None:
    core = core_of(queue_timeout_s=10.0)
    core.submit(job(0, 1.0))
    for number in range(1, 2000):
        core.submit(job(number, 500.0))
        core.cancel(number)
    core.check()
    assert core.waiting_count == 1
    (lane,) = core._book.lanes.values()
    assert isinstance(lane.line, KeyedLine)
    assert len(lane.line._heap) + len(core._book.expiries._heap) < 500


def test_jobs_that_have_ended_leave_no_trace_in_the_bound() -> None:
    core = core_of("bounded-ssjf")
    core.join(ENGINE, Room(1, 100_000))
    for number in range(1000):
        core.submit(job(number))
        core.next_batch(ENGINE, 1.0)
        core.finished(number, 5)
        core.credit(ENGINE, Room(1, 100_000), number + 1)
    (lane,) = core._book.lanes.values()
    assert lane.bound is not None
    assert len(lane.bound._entries) <= 64


@pytest.mark.parametrize("loss", ["_heap", "_engines", "entries"])
def test_check_notices_what_is_broken(loss: str) -> None:
    core = core_of(queue_timeout_s=10.0)
    core.join(ENGINE, Room(1, 100_000))
    core.submit(job(1))
    core.submit(job(2))
    core.next_batch(ENGINE, 3.0)
    core.check()
    (lane,) = core._book.lanes.values()
    owner = {"_heap": lane.line, "_engines": core, "entries": core._book}[loss]
    getattr(owner, loss).clear()
    with pytest.raises(BrokenInvariant):
        core.check()
