"""The loop one step ahead of its results, as on CUDA, with a script in place of the model."""

from __future__ import annotations

import random
from typing import Any

import pytest

from engine_svc.batching_mode import BatchingMode
from engine_svc.kv_cache import CacheShape
from engine_svc.messages import Attach, Cancel, Stop
from engine_svc.sequence import Ending, FailureCode, FinishReason
from engine_svc.step import Step

from .scripted import EOS, SHAPE, ScriptedRunner, script, scripted
from .turns import Turns, make_sequence


def ahead(runner: ScriptedRunner, shape: CacheShape = SHAPE, **options: Any) -> Turns:
    return Turns(scripted(runner, shape, overlap=True, **options))


def test_tokens_come_a_turn_after_their_step_was_launched() -> None:
    runner = ScriptedRunner({1: script("abc")})
    turns = ahead(runner)
    turns.start(make_sequence(1))
    turns.turn()
    assert (len(runner.steps), turns.tokens(1)) == (1, [])
    turns.turn()
    assert (len(runner.steps), turns.tokens(1)) == (2, list(b"a"))


def test_an_answer_that_ends_by_its_token_costs_one_row_that_nobody_sees() -> None:
    runner = ScriptedRunner({1: [*script("ab"), 99]})
    turns = ahead(runner)
    turns.start(make_sequence(1))
    turns.until_idle()
    assert turns.tokens(1) == script("ab")
    assert turns.finished(1).ending == Ending(FinishReason.EOS, stop_token_id=EOS)
    assert len(runner.steps) == 4
    assert turns.is_empty


def test_an_answer_that_ends_by_length_costs_no_row_more() -> None:
    runner = ScriptedRunner({1: script("abcdef")})
    turns = ahead(runner)
    turns.start(make_sequence(1, max_tokens=3))
    turns.until_idle()
    assert turns.tokens(1) == list(b"abc")
    assert len(runner.steps) == 3


def test_a_place_that_was_given_on_gets_nothing_of_its_last_owner() -> None:
    scripts = {i: script("abcdefgh"[: i + 1]) for i in range(6)}
    turns = ahead(ScriptedRunner(scripts), CacheShape(8, 16, 2, 64))
    turns.start(*(make_sequence(i, max_tokens=20) for i in range(6)))
    turns.until_idle()
    assert [turns.tokens(i) for i in range(6)] == list(scripts.values())
    assert turns.is_empty


def test_cancelling_frees_within_one_turn_what_is_in_flight() -> None:
    runner = ScriptedRunner({1: script("abcdef")})
    turns = ahead(runner)
    turns.start(make_sequence(1))
    turns.turn(3)
    turns.post(Cancel((1,)))
    turns.turn()
    assert turns.is_empty
    assert turns.tokens(1) == list(b"ab")
    assert runner.begun == set()


def test_a_numeric_fault_in_flight_fails_its_sequence_alone() -> None:
    runner = ScriptedRunner({1: list(b"ab"), 2: script("abcd")})
    turns = ahead(runner)
    turns.start(make_sequence(1), make_sequence(2))
    turns.until_idle()
    failed = turns.failed(1)
    assert (failed.code, failed.output_tokens) == (FailureCode.NUMERIC, 2)
    assert turns.tokens(2) == script("abcd")
    assert turns.is_empty


def test_memory_that_is_short_for_a_sequence_that_just_ended_fails_nobody() -> None:
    def fits(step: Step) -> bool:
        # The row of an answer that has ended by its token already, which nobody knows yet.
        return len(runner.steps) < 3

    runner = ScriptedRunner({1: script("ab")}, fits=fits)
    turns = ahead(runner)
    turns.start(make_sequence(1))
    turns.until_idle()
    assert turns.tokens(1) == script("ab")
    assert not any(report.failed for report in turns.reports)
    assert turns.is_empty


def test_a_preempted_answer_goes_on_where_it_was() -> None:
    scripts = {i: script("x" * 60) for i in range(3)}
    turns = ahead(ScriptedRunner(scripts), CacheShape(7, 16, 3, 112))
    turns.start(
        *(make_sequence(i, range(4 * i, 4 * i + 10), max_tokens=70, kv_reservation_tokens=16)
          for i in range(3))
    )  # fmt: skip
    turns.until_idle()
    assert [turns.tokens(i) for i in range(3)] == list(scripts.values())
    assert sum(report.preempted for report in turns.reports) >= 1
    assert turns.is_empty


def test_a_long_prompt_is_read_in_pieces_while_others_go_on() -> None:
    runner = ScriptedRunner({1: script("abcdefgh"), 2: script("z")})
    turns = ahead(runner, max_prefill_tokens=16)
    turns.start(make_sequence(1, max_tokens=20))
    turns.turn(2)
    turns.start(make_sequence(2, range(60)))
    turns.until_idle()
    assert turns.tokens(1) == script("abcdefgh")
    assert turns.tokens(2) == script("z")
    reading = [step for step in runner.steps if step.chunks]
    assert [step.chunks[0].tokens for step in reading] == [3, 16, 16, 16, 12]
    assert all(step.decode for step in reading[1:])


def test_prompt_tokens_found_in_the_cache_are_told() -> None:
    turns = ahead(ScriptedRunner({1: script("a"), 2: script("b")}))
    turns.start(make_sequence(1, range(40)))
    turns.until_idle()
    turns.start(make_sequence(2, range(40)))
    turns.until_idle()
    assert turns.finished(1).cached_prompt_tokens == 0
    assert turns.finished(2).cached_prompt_tokens == 32


def test_a_finished_answer_of_a_dynamic_batch_is_told_at_once() -> None:
    turns = ahead(ScriptedRunner({1: script("a"), 2: script("abcdef"), 3: script("z")}))
    turns.post(Attach(turns.reports.append, BatchingMode.DYNAMIC))
    turns.start(make_sequence(1), make_sequence(2))
    turns.turn(2)
    turns.start(make_sequence(3))
    turns.until_idle()
    ended = {f.sequence_id: n for n, r in enumerate(turns.reports) for f in r.finished}
    first = next(n for n, report in enumerate(turns.reports) if 3 in report.sequence_ids)
    assert ended[1] < ended[2] < first


def test_stop_ends_the_loop_with_a_step_in_flight() -> None:
    runner = ScriptedRunner({1: script("a" * 90)})
    turns = ahead(runner)
    turns.start(make_sequence(1, max_tokens=90))
    turns.turn(2)
    turns.post(Stop())
    turns.assembled.engine.run_forever()
    assert len(runner.steps) == 2


@pytest.mark.parametrize("overlap", [False, True])
@pytest.mark.parametrize("mode", list(BatchingMode))
def test_a_thousand_requests_cancelled_at_random_leave_every_block_free(
    overlap: bool, mode: BatchingMode
) -> None:
    draw = random.Random(mode.value)
    scripts = {i: script("x" * draw.randrange(60)) for i in range(1000)}
    runner = ScriptedRunner(scripts)
    engine = scripted(runner, CacheShape(30, 16, 6, 160), overlap=overlap, max_prefill_tokens=40)
    turns = Turns(engine)
    turns.post(Attach(turns.reports.append, mode))
    for i in scripts:
        prompt = [draw.randrange(3)] * draw.randrange(1, 80)
        reserved = draw.choice([None, draw.randrange(1, 60)])
        most = draw.randrange(1, 80)
        turns.start(make_sequence(i, prompt, max_tokens=most, kv_reservation_tokens=reserved))
        if draw.random() < 0.4:
            turns.post(Cancel((draw.randrange(i + 1),)))
        if i % 3 == 0:
            turns.turn(draw.randrange(4))
            engine.scheduler.check()
    turns.post(Cancel(tuple(range(600, 1000))))
    turns.until_idle()
    ended = [f.sequence_id for report in turns.reports for f in report.finished]
    assert len(ended) == len(set(ended)) > 200
    assert not any(report.failed for report in turns.reports)
    assert runner.begun == set()
    free = turns.capacity
    assert (free.free_kv_tokens, free.running_sequences) == (480, 0)
    engine.scheduler.check()
