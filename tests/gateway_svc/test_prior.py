from __future__ import annotations

import pytest

from gateway_svc.prior import PromptLengthPrior


def test_it_starts_from_the_given_length() -> None:
    assert PromptLengthPrior(256.0).expected_tokens(10) == 256.0


def test_it_moves_towards_what_came_true_the_more_answers_the_more() -> None:
    prior, seen = PromptLengthPrior(256.0), [256.0]
    for _ in range(100):
        prior.learn(prompt_tokens=10, output_tokens=20)
        seen.append(prior.expected_tokens(10))
    assert seen == sorted(seen, reverse=True)
    assert seen[-1] == pytest.approx(20.0, rel=1.0)
    assert seen[-1] > 20.0


def test_prompts_within_a_factor_of_two_share_what_is_learnt_and_others_do_not() -> None:
    prior = PromptLengthPrior(256.0)
    prior.learn(prompt_tokens=64, output_tokens=8)
    assert prior.expected_tokens(127) == prior.expected_tokens(64) < 256.0
    assert prior.expected_tokens(63) == prior.expected_tokens(128) == 256.0


def test_it_forgets_so_that_a_change_is_followed() -> None:
    prior = PromptLengthPrior(256.0)
    for _ in range(20_000):
        prior.learn(10, 1000)
    for _ in range(2_000):
        prior.learn(10, 10)
    assert prior.expected_tokens(10) < 50


def test_it_is_positive_even_where_answers_are_empty() -> None:
    prior = PromptLengthPrior(1.0)
    for _ in range(10_000):
        prior.learn(10, 0)
    assert prior.expected_tokens(10) > 0
