from __future__ import annotations

from ssjf_bench.engine_cases import CASES, DEFAULT_CASES, MOST_SEQUENCES


def test_the_mixed_case_is_the_one_that_was_measured_elsewhere() -> None:
    case = CASES["mixed-512"]
    assert (len(case.output_tokens), case.total_tokens) == (512, 88_986)
    assert (min(case.output_tokens), max(case.output_tokens)) == (8, 1024)


def test_the_other_cases_have_64_tokens_an_answer() -> None:
    assert CASES["batch-256"].output_tokens == (64,) * 256


def test_prompts_are_as_long_as_they_should_be_differ_and_come_again() -> None:
    prompts = CASES["batch-128"].prompts(1000)
    assert {len(prompt) for prompt in prompts} == {128}
    assert len({tuple(prompt[:16]) for prompt in prompts}) == 128
    assert all(0 <= token < 1000 for prompt in prompts for token in prompt)
    assert prompts == CASES["batch-128"].prompts(1000)


def test_every_device_has_cases() -> None:
    assert set(DEFAULT_CASES) == set(MOST_SEQUENCES) == {"cpu", "cuda"}
    assert all(name in CASES for names in DEFAULT_CASES.values() for name in names)
