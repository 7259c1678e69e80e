from __future__ import annotations

import pytest

from ssjf_bench import lengths
from ssjf_bench.lengths import Answered
from ssjf_bench.trace import Trace

ROWS = [Answered(f"p{tokens}", f"say {tokens}", (), "llm", tokens) for tokens in range(1, 6)]


def test_every_row_is_drawn_before_any_comes_again() -> None:
    drawn = lengths.draw(ROWS, 12, seed=1)
    assert sorted(row.output_tokens for row in drawn[:5]) == [1, 2, 3, 4, 5]
    assert sorted(row.output_tokens for row in drawn[5:10]) == [1, 2, 3, 4, 5]
    assert len(drawn) == 12


def test_the_seed_alone_decides_the_order() -> None:
    assert lengths.draw(ROWS, 5, seed=1) == lengths.draw(ROWS, 5, seed=1)
    assert lengths.draw(ROWS, 5, seed=1) != lengths.draw(ROWS, 5, seed=2)


def test_nothing_cannot_be_drawn_from() -> None:
    with pytest.raises(ValueError, match="no row"):
        lengths.draw([], 1, seed=1)


def test_requests_name_the_longest_answer_as_their_limit() -> None:
    requests = lengths.requests(ROWS, seed=7)
    assert {request.max_tokens for request in requests} == {5}
    assert [request.output_tokens for request in requests] == [1, 2, 3, 4, 5]
    assert len({request.request_id for request in requests}) == 5


def test_a_limit_cuts_longer_answers() -> None:
    requests = lengths.requests(ROWS, seed=7, max_tokens=3)
    assert [request.output_tokens for request in requests] == [1, 2, 3, 3, 3]


def test_prompts_have_the_lengths_given() -> None:
    requests = lengths.requests(ROWS, seed=7, prompt_tokens=[9, 8, 7, 6, 5])
    assert [request.prompt_tokens for request in requests] == [9, 8, 7, 6, 5]


def test_a_trace_has_lengths_of_its_own() -> None:
    trace = Trace((0.0, 1.0, 2.0), (1, 1, 1), (4, 5, 6))
    assert [row.output_tokens for row in lengths.from_trace(trace, 2)] == [4, 5]
    with pytest.raises(ValueError, match="the trace has 3"):
        lengths.from_trace(trace, 4)
