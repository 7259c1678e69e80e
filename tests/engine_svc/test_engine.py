"""The loop, with a script in place of the model."""

from __future__ import annotations

import pytest

from engine_svc.messages import Attach, Cancel, Detach, Drain, Failed, Report, Start, Stop
from engine_svc.scheduler import Capacity
from engine_svc.sequence import Ending, FailureCode, FinishReason
from engine_svc.step import Step

from .scripted import EOS, SHAPE, ScriptedRunner, script, scripted
from .turns import Turns, make_sequence


def run(answer: str, **params: object) -> Turns:
    """One sequence to its end."""
    turns = Turns(scripted(ScriptedRunner({1: script(answer)})))
    turns.start(make_sequence(1, **{"max_tokens": 100, **params}))  # type: ignore[arg-type]
    turns.until_idle()
    return turns


def test_an_answer_ends_with_its_end_of_sequence_which_is_sent() -> None:
    turns = run("Hallo")
    assert turns.tokens(1) == script("Hallo")
    assert turns.finished(1).ending == Ending(FinishReason.EOS, stop_token_id=EOS)
    assert turns.is_empty


def test_finished_counts_tokens_and_times() -> None:
    finished = run("Hallo").finished(1)
    assert (finished.prompt_tokens, finished.output_tokens) == (3, 6)
    # The clock moves by one second at each reading, twice a step.
    assert (finished.prefill_ms, finished.decode_ms) == (1000, 10_000)


def test_an_end_is_told_before_the_blocks_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    engine = scripted(ScriptedRunner({1: script("Hallo")}))
    turns = Turns(engine)
    told: list[int] = []
    monkeypatch.setattr(engine.scheduler, "check", lambda **_: told.append(len(turns.reports)))
    turns.start(make_sequence(1, max_tokens=100))
    turns.until_idle()
    assert turns.finished(1)
    assert told[-1] == len(turns.reports)


def test_max_tokens_end_an_answer() -> None:
    turns = run("Hallo", max_tokens=3)
    assert turns.tokens(1) == list(b"Hal")
    assert turns.finished(1).ending == Ending(FinishReason.LENGTH)


def test_a_stop_token_ends_an_answer() -> None:
    turns = run("ab!c", stop_token_ids=frozenset({ord("!")}))
    assert turns.tokens(1) == list(b"ab!")
    assert turns.finished(1).ending == Ending(FinishReason.STOP, stop_token_id=ord("!"))


@pytest.mark.parametrize("forced", [1, 4, 30])
def test_a_forced_length_is_met_exactly(forced: int) -> None:
    answer = [*b"a.", EOS, *b"." * 40]
    turns = Turns(scripted(ScriptedRunner({1: answer})))
    turns.start(make_sequence(1, max_tokens=40, forced_tokens=forced))
    turns.until_idle()
    assert turns.tokens(1) == answer[:forced]
    assert turns.finished(1).ending == Ending(FinishReason.LENGTH)


def test_new_sequences_join_at_the_next_step_and_ended_ones_leave_at_once() -> None:
    runner = ScriptedRunner({1: script("abc"), 2: script("x")})
    turns = Turns(scripted(runner))
    turns.start(make_sequence(1))
    turns.turn(2)
    turns.start(make_sequence(2))
    turns.until_idle()
    assert runner.ran() == [[1], [1], [1, 2], [1, 2]]


def test_cancelling_frees_within_one_step_and_says_nothing_more() -> None:
    turns = Turns(scripted(ScriptedRunner({1: script("abcdef")})))
    turns.start(make_sequence(1))
    turns.turn(2)
    turns.post(Cancel((1, 77)))
    turns.turn()
    assert turns.is_empty
    assert turns.tokens(1) == list(b"ab")
    assert not any(r.finished or r.failed for r in turns.reports)


def test_a_cancelled_sequence_that_never_started_is_forgotten() -> None:
    turns = Turns(scripted(ScriptedRunner({})))
    turns.start(make_sequence(1))
    turns.post(Cancel((1,)))
    turns.turn()
    assert turns.is_empty


def test_capacity_is_reported_at_once_and_when_it_changes() -> None:
    turns = Turns(scripted(ScriptedRunner({1: script("abc")})))
    turns.turn()
    turns.start(make_sequence(1))
    turns.turn(6)
    changes = [(r.capacity, r.batch_id) for r in turns.reports if r.capacity]
    everything, less = Capacity(4, 1024, 0), Capacity(3, 1008, 1)
    assert changes == [(everything, 0), (less, 1), (everything, 1)]


def test_sequences_refused_at_the_edge_are_reported() -> None:
    turns = Turns(scripted(ScriptedRunner({})))
    refused = Failed(7, FailureCode.INVALID, "no")
    turns.post(Start(1, (), (refused,)))
    turns.turn()
    assert turns.failed(7) == refused


def test_a_sequence_that_never_fits_fails_alone() -> None:
    turns = Turns(scripted(ScriptedRunner({2: script("b")})))
    turns.start(make_sequence(1, max_tokens=SHAPE.total_blocks * 16), make_sequence(2))
    turns.until_idle()
    assert turns.failed(1).code is FailureCode.KV_EXHAUSTED
    assert turns.tokens(2) == script("b")


def test_a_numeric_fault_fails_its_sequence_alone_and_wipes_its_cache() -> None:
    runner = ScriptedRunner({1: list(b"ab"), 2: script("abcd")})
    turns = Turns(scripted(runner))
    turns.start(make_sequence(1), make_sequence(2))
    turns.until_idle()
    failed = turns.failed(1)
    assert (failed.code, failed.output_tokens) == (FailureCode.NUMERIC, 2)
    assert len(runner.cleared) == 1
    assert turns.tokens(2) == script("abcd")
    assert turns.is_empty


def test_out_of_memory_runs_the_step_again_in_parts() -> None:
    runner = ScriptedRunner(
        {i: script("abc") for i in range(4)}, fits=lambda step: len(step.sampled) <= 1
    )
    turns = Turns(scripted(runner))
    turns.start(make_sequence(0), make_sequence(1))
    turns.turn()
    turns.start(make_sequence(2), make_sequence(3))
    turns.until_idle()
    assert [turns.tokens(i) for i in range(4)] == [script("abc")] * 4
    assert turns.is_empty


def test_out_of_memory_for_one_sequence_alone_fails_that_one() -> None:
    def fits(step: Step) -> bool:
        return all(s.sequence_id != 2 or len(s.output) < 2 for s in step.sampled)

    runner = ScriptedRunner({i: script("abcd") for i in range(4)}, fits=fits)
    turns = Turns(scripted(runner))
    turns.start(*(make_sequence(i) for i in range(4)))
    turns.until_idle()
    failed = turns.failed(2)
    assert (failed.code, failed.output_tokens) == (FailureCode.KV_EXHAUSTED, 2)
    assert [turns.tokens(i) for i in (0, 1, 3)] == [script("abcd")] * 3
    assert turns.is_empty


def test_any_other_error_of_the_runner_breaks_the_loop() -> None:
    def broken(_: Step) -> bool:
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    turns = Turns(scripted(ScriptedRunner({}, fits=broken)))
    turns.start(make_sequence(1))
    with pytest.raises(RuntimeError, match="CUDA error"):
        turns.turn()


def test_lost_blocks_are_noticed_when_idle() -> None:
    turns = Turns(scripted(ScriptedRunner({1: script("a")})))
    sequence = make_sequence(1)
    turns.start(sequence)
    turns.turn()
    sequence.blocks = sequence.blocks[1:]
    with pytest.raises(RuntimeError, match="KV blocks"):
        turns.turn(2)


def test_detaching_frees_everything_and_later_reports_go_to_the_next_stream() -> None:
    turns = Turns(scripted(ScriptedRunner({1: script("abcdef"), 2: script("x")})))
    turns.start(make_sequence(1))
    turns.turn(2)
    turns.post(Detach())
    turns.turn()
    seen = len(turns.reports)
    second: list[Report] = []
    turns.post(Attach(second.append))
    turns.post(Start(1, (make_sequence(2),)))
    turns.turn(3)
    assert len(turns.reports) == seen
    assert {each for report in second for each in report.sequence_ids} == {2}
    assert second[-1].capacity == Capacity(4, 1024, 0)


def test_draining_offers_nothing_finishes_what_runs_and_says_so() -> None:
    turns = Turns(scripted(ScriptedRunner({1: script("abc")})))
    turns.start(make_sequence(1))
    turns.turn()
    turns.post(Drain())
    turns.until_idle()
    assert turns.tokens(1) == script("abc")
    assert turns.capacity == Capacity(0, 0, 0)
    assert [r.drained for r in turns.reports].index(True) == len(turns.reports) - 1


def test_a_stream_after_a_drained_one_is_offered_everything_again() -> None:
    turns = Turns(scripted(ScriptedRunner({})))
    turns.post(Drain())
    turns.turn()
    turns.post(Detach())
    turns.post(Attach(turns.reports.append))
    turns.turn()
    assert turns.is_empty


def test_a_stream_that_opens_while_the_process_stops_is_offered_nothing() -> None:
    turns = Turns(scripted(ScriptedRunner({})))
    turns.post(Drain(for_good=True))
    turns.post(Attach(turns.reports.append))
    turns.turn()
    assert turns.capacity.free_sequences == 0
    assert turns.reports[-1].drained


def test_stop_ends_the_loop_whatever_runs() -> None:
    turns = Turns(scripted(ScriptedRunner({1: script("a" * 90)})))
    turns.start(make_sequence(1, max_tokens=90))
    turns.post(Stop())
    turns.assembled.engine.run_forever()
    assert not turns.is_empty if turns.reports else True
