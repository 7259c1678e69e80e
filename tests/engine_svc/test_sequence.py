from __future__ import annotations

from engine_svc.sequence import Ending, FinishReason

from .turns import make_sequence

EOS = frozenset({2})


def test_an_end_of_sequence_token_ends_the_answer() -> None:
    sequence = make_sequence(1)
    sequence.output = [9, 2]
    assert sequence.ending(EOS) == Ending(FinishReason.EOS, stop_token_id=2)


def test_an_ignored_end_of_sequence_token_does_not() -> None:
    sequence = make_sequence(1, ignore_eos=True)
    sequence.output = [9, 2]
    assert sequence.ending(EOS) is None


def test_a_stop_token_ends_the_answer() -> None:
    sequence = make_sequence(1, stop_token_ids=frozenset({9}))
    sequence.output = [9]
    assert sequence.ending(EOS) == Ending(FinishReason.STOP, stop_token_id=9)


def test_nothing_but_length_ends_it_before_min_tokens() -> None:
    sequence = make_sequence(1, min_tokens=3)
    sequence.output = [2, 2]
    assert sequence.ending(EOS) is None
    sequence.output.append(2)
    assert sequence.ending(EOS) is not None


def test_max_tokens_end_it() -> None:
    sequence = make_sequence(1, max_tokens=2)
    sequence.output = [9, 9]
    assert sequence.ending(EOS) == Ending(FinishReason.LENGTH)


def test_a_forced_length_overrides_every_other_end() -> None:
    sequence = make_sequence(1, forced_tokens=2, stop_token_ids=frozenset({9}))
    sequence.output = [9]
    assert sequence.ending(EOS) is None
    sequence.output = [9, 2]
    assert sequence.ending(EOS) == Ending(FinishReason.LENGTH)


def test_it_reserves_prompt_and_max_tokens() -> None:
    assert make_sequence(1, prompt=range(10), max_tokens=7).reserved_tokens == 17
