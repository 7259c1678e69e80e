from __future__ import annotations

import torch

from engine_svc.logit_rules import adjusted

from .turns import make_sequence

EOS = frozenset({2})
NO_NUMBER = float("-inf")


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def test_nothing_asked_for_copies_nothing() -> None:
    logits = row(1, 2, 3, 4)
    assert adjusted(logits, [make_sequence(1)], EOS) is logits


def test_repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_answer() -> None:
    sequence = make_sequence(1, prompt=[0], repetition_penalty=2.0)
    sequence.output = [1]
    assert adjusted(row(4, -4, 4, -4), [sequence], EOS).tolist() == [[2, -8, 4, -4]]


def test_presence_counts_once_and_for_the_answer_alone() -> None:
    sequence = make_sequence(1, prompt=[0], presence_penalty=0.5)
    sequence.output = [1, 1, 1]
    assert adjusted(row(1, 1, 1), [sequence], EOS).tolist() == [[1, 0.5, 1]]


def test_frequency_counts_every_time() -> None:
    sequence = make_sequence(1, prompt=[0], frequency_penalty=0.5)
    sequence.output = [1, 1, 2]
    assert adjusted(row(1, 1, 1), [sequence], EOS).tolist() == [[1, 0, 0.5]]


def test_biases_are_added() -> None:
    sequence = make_sequence(1, logit_bias={0: 5.0, 2: -100.0})
    assert adjusted(row(1, 1, 1), [sequence], EOS).tolist() == [[6, 1, -99]]


def test_ends_are_forbidden_before_min_tokens() -> None:
    sequence = make_sequence(1, min_tokens=2, stop_token_ids=frozenset({0}))
    sequence.output = [3]
    assert adjusted(row(1, 1, 1, 1), [sequence], EOS).tolist() == [[NO_NUMBER, 1, NO_NUMBER, 1]]
    sequence.output = [3, 3]
    assert adjusted(row(1, 1, 1, 1), [sequence], EOS).tolist() == [[1, 1, 1, 1]]


def test_an_ignored_end_of_sequence_stays_allowed_before_min_tokens() -> None:
    sequence = make_sequence(1, min_tokens=2, ignore_eos=True)
    assert adjusted(row(1, 1, 1), [sequence], EOS).tolist() == [[1, 1, 1]]


def test_each_row_has_its_own_rules() -> None:
    logits = torch.ones(3, 4)
    sequences = [
        make_sequence(1, logit_bias={1: 1.0}),
        make_sequence(2),
        make_sequence(3, prompt=[3], repetition_penalty=2.0),
    ]
    found = adjusted(logits, sequences, EOS).tolist()
    assert found == [[1, 2, 1, 1], [1, 1, 1, 1], [1, 1, 1, 0.5]]
    assert logits.tolist() == [[1] * 4] * 3
