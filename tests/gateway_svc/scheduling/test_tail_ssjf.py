"""tail-ssjf on one engine with one place: the clock is the tokens that were made."""

from __future__ import annotations

from itertools import count

from gateway_svc.scheduling import policy
from gateway_svc.scheduling.batching import Batching
from gateway_svc.scheduling.core import SchedulingCore
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.credits import Room
from gateway_svc.scheduling.policy import PolicyOptions
from gateway_svc.scheduling.quota import Limits
from tests.gateway_svc.scheduling.jobs import ENGINE, job

PLACE = Room(1, 10**9)
UNBOUNDED = float("inf")


class Served:
    """A core that serves one job after the other, each as long as it is predicted."""

    def __init__(self, tail: float, tail_longest: float = 1.0, alpha: float = UNBOUNDED) -> None:
        options = PolicyOptions(alpha=alpha, tail=tail, tail_longest=tail_longest)
        made = policy.create("tail-ssjf", options)
        self.core = SchedulingCore(
            made, Limits(), Batching(max_batch=1), step_model=StepModel(prefill_token_ms=0)
        )
        self.core.join(ENGINE, PLACE)
        self.numbers = count(1)

    def submit(self, tokens: float) -> int:
        number = next(self.numbers)
        self.core.submit(job(number, tokens))
        return number

    def start(self) -> int:
        batch = self.core.next_batch(ENGINE, 0.0)
        assert batch is not None
        (started,) = batch.jobs
        return started.job_id

    def end(self, number: int, tokens: int) -> None:
        self.core.finished(number, tokens)
        self.core.credit(ENGINE, PLACE, 10**9)
        self.core.check()

    def serve(self) -> int:
        """Starts and ends the next one, at its predicted length."""
        number = self.start()
        ((running, _),) = self.core.running()
        self.end(number, int(running.predicted_tokens))
        return number


def overtakers(served: Served, tokens: float) -> int:
    """How many jobs of `tokens` tokens go before the one that waits if they never end coming."""
    waiting = {each.job_id for each in served.core.waiting()}
    for overtaken in range(1000):
        served.submit(tokens)
        if served.serve() in waiting:
            return overtaken
    return 1000


def test_the_shortest_goes_first_while_none_is_due() -> None:
    served = Served(tail=2.0)
    numbers = [served.submit(tokens) for tokens in (300, 20, 100)]
    assert [served.serve() for _ in numbers] == [2, 3, 1]


def test_the_order_that_is_shown_is_the_order_of_starts() -> None:
    served = Served(tail=1.0)
    for tokens in (300, 20, 100, 500, 10):
        served.submit(tokens)
    served.serve()
    shown = [each.job_id for each in served.core.waiting()]
    assert shown == [served.serve() for _ in shown]


def test_nobody_is_overtaken_for_ever() -> None:
    served = Served(tail=1.5)
    served.submit(200)
    assert 0 < overtakers(served, 10) < 100


def test_a_larger_tail_lets_more_overtake() -> None:
    small, large = Served(tail=1.2), Served(tail=3.0)
    for served in (small, large):
        for _ in range(5):
            served.submit(200)
    assert overtakers(large, 10) > overtakers(small, 10) > 0


def test_after_a_worse_moment_a_quiet_one_may_be_stretched_as_far() -> None:
    calm, shaken = Served(tail=1.2), Served(tail=1.2)
    for _ in range(50):
        shaken.submit(200)
    for _ in range(50):
        shaken.serve()
    for served in (calm, shaken):
        served.submit(200)
    assert overtakers(shaken, 10) > 10 * overtakers(calm, 10)


def test_the_bound_holds_it_to_its_own_wait_whatever_came_before() -> None:
    free, bound = Served(tail=1.2), Served(tail=1.2, alpha=1.0)
    for served in (free, bound):
        for _ in range(50):
            served.submit(200)
        for _ in range(50):
            served.serve()
        served.submit(200)
    assert overtakers(bound, 10) < overtakers(free, 10)
    assert bound.core.bound_violations == 0


def test_the_longest_wait_longer_where_they_may() -> None:
    alike, apart = Served(tail=1.0, tail_longest=1.0), Served(tail=1.0, tail_longest=4.0)
    for served in (alike, apart):
        for _ in range(150):  # enough to know which are the longest
            served.submit(50)
            served.serve()
        served.submit(400)
    assert overtakers(apart, 10) > overtakers(alike, 10)


def test_equal_predictions_are_none_of_them_the_longest() -> None:
    alike, apart = Served(tail=1.0, tail_longest=1.0), Served(tail=1.0, tail_longest=100.0)
    for served in (alike, apart):
        for _ in range(150):
            served.submit(50)
            served.serve()
        served.submit(50)
    assert overtakers(apart, 10) == overtakers(alike, 10)


def test_a_new_prediction_does_not_start_the_clock_again() -> None:
    served, repriced = Served(tail=1.5), Served(tail=1.5)
    for each in (served, repriced):
        each.submit(200)
    expected = overtakers(served, 10)
    for _ in range(expected // 2):
        repriced.submit(10)
        repriced.serve()
        assert repriced.core.reprice(1, 200.0)
    assert overtakers(repriced, 10) <= expected - expected // 2


def test_work_in_vain_does_not_count() -> None:
    served = Served(tail=1.5)
    served.submit(200)
    lost = Served(tail=1.5)
    lost.submit(200)
    lost.submit(10)
    for _ in range(50):
        assert lost.start() == 2
        lost.core.leave(ENGINE)
        lost.core.join(ENGINE, PLACE)
    lost.core.cancel(2)
    assert overtakers(lost, 10) == overtakers(served, 10)


def test_lengths_that_are_all_predicted_too_long_make_nobody_due_too_early() -> None:
    right, wrong = Served(tail=1.5), Served(tail=1.5)
    for _ in range(200):  # both make 50 tokens; one is told 250
        right.submit(50)
        right.end(right.start(), 50)
        wrong.submit(250)
        wrong.end(wrong.start(), 50)
    for served, factor in ((right, 1), (wrong, 5)):
        for _ in range(10):
            served.submit(200 * factor)
    overtaken = []
    for served, factor in ((right, 1), (wrong, 5)):
        waiting = {each.job_id for each in served.core.waiting()}
        for number in range(1000):
            served.submit(10 * factor)
            started = served.start()
            served.end(started, 10)
            if started in waiting:
                overtaken.append(number)
                break
    assert abs(overtaken[0] - overtaken[1]) <= 0.2 * overtaken[0]
