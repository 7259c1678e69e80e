from __future__ import annotations

import pytest

from ssjf_bench.step_time import StepTime


def test_a_step_takes_its_base_and_a_share_for_each_sequence() -> None:
    assert StepTime(6.5, 0.068).decode_s(16) == pytest.approx(0.007588)


def test_a_step_may_grow_with_every_doubling() -> None:
    step_time = StepTime(6.5, 0.0, per_doubling_ms=0.5)
    assert [step_time.decode_s(batch) for batch in (0, 1, 2, 16)] == pytest.approx(
        [0.0065, 0.0065, 0.007, 0.0085]
    )


def test_a_prompt_takes_its_prefill() -> None:
    assert StepTime(prefill_token_ms=0.05).prefill_s(1000) == pytest.approx(0.05)


def test_capacity_is_a_full_batch_for_each_mean_length_of_full_steps() -> None:
    capacity = StepTime(6.5, 0.068).capacity_requests_per_s(16, mean_output_tokens=400)
    assert capacity == pytest.approx(16 / (0.007588 * 400))


def test_prefill_takes_from_capacity() -> None:
    step_time = StepTime(10, 0, prefill_token_ms=1)
    # 4 answers in 10 steps of 10 ms and 4 prefills of 100 ms
    assert step_time.capacity_requests_per_s(4, 10, 100) == pytest.approx(4 / 0.5)


def test_context_takes_from_capacity() -> None:
    step_time = StepTime(10, 0, context_token_ms=0.01)
    # 4 answers of 10 tokens with prompts of 95: steps look back on 4 * 100 tokens on average
    assert step_time.capacity_requests_per_s(4, 10, 95) == pytest.approx(4 / (10 * 0.014))


def test_whole_batches_run_as_long_as_their_longest_answers() -> None:
    step_time = StepTime(8, 1)
    # 10 steps of two and 20 of one; 5 of two and 5 of one; the last one has no company
    seconds = 10 * 0.010 + 20 * 0.009 + 5 * 0.010 + 5 * 0.009
    found = step_time.whole_batches_requests_per_s(2, [10, 30, 10, 5, 99])
    assert found == pytest.approx(4 / seconds)


def test_a_batch_that_is_never_full_counts_as_it_is() -> None:
    assert StepTime(8, 1).whole_batches_requests_per_s(4, [10]) == pytest.approx(1 / 0.09)


@pytest.mark.parametrize("times", [(-1, 1, 0), (0, 0, 0), (1, 1, -1), (float("inf"), 0, 0)])
def test_impossible_times_are_refused(times: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match="step time"):
        StepTime(*times)
