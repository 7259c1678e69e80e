from __future__ import annotations

from collections.abc import Sequence as Items

import pytest
import torch

from engine_svc.logit_rules import FORBIDDEN, adjusted
from engine_svc.sequence import Sequence

from .one_step import lengths_of, plan_for, table_of
from .turns import make_sequence


def row(*values: float) -> torch.Tensor:
    return torch.tensor([values], dtype=torch.float32)


def rules(logits: torch.Tensor, *sequences: Sequence) -> torch.Tensor:
    table = table_of(sequences, logits.shape[1])
    return adjusted(
        logits, table, torch.arange(len(sequences)), lengths_of(sequences), plan_for(sequences)
    )


def answered(output: Items[int], **options: object) -> Sequence:
    sequence = make_sequence(1, **options)  # type: ignore[arg-type]
    sequence.output = [*output]
    return sequence


def test_nothing_asked_for_copies_nothing() -> None:
    logits = row(1, 2, 3, 4, 5, 6, 7, 8)
    assert rules(logits, make_sequence(1)) is logits


def test_repetition_divides_positive_and_multiplies_negative_logits_of_prompt_and_answer() -> None:
    sequence = answered([1], prompt=[0], repetition_penalty=2.0)
    assert rules(row(4, -4, 4, -4), sequence).tolist() == [[2, -8, 4, -4]]


def test_presence_counts_once_and_for_the_answer_alone() -> None:
    sequence = answered([1, 1, 1], prompt=[0], presence_penalty=0.5)
    assert rules(row(1, 1, 1), sequence).tolist() == [[1, 0.5, 1]]


def test_frequency_counts_every_time() -> None:
    sequence = answered([1, 1, 2], prompt=[0, 0], frequency_penalty=0.5)
    assert rules(row(1, 1, 1), sequence).tolist() == [[1, 0, 0.5]]


def test_penalties_count_tokens_that_the_host_has_not_seen() -> None:
    sequence = answered([], prompt=[0], frequency_penalty=0.5, repetition_penalty=2.0)
    table = table_of([sequence], 3)
    places = torch.tensor([0])
    table.count(places, torch.tensor([2]))
    found = adjusted(torch.ones(1, 3), table, places, torch.tensor([2]), plan_for([sequence]))
    assert found.tolist() == [[0.5, 1, 0]]


def test_a_tiny_repetition_penalty_leaves_finite_logits() -> None:
    sequence = answered([], prompt=[0, 1], repetition_penalty=1e-30)
    assert rules(row(1e30, -1, 1), sequence).isfinite().all()


def test_biases_are_added() -> None:
    sequence = make_sequence(1, prompt=[1], logit_bias={0: 5.0, 2: -100.0})
    assert rules(row(1, 1, 1), sequence).tolist() == [[6, 1, -99]]


def test_ends_are_forbidden_before_min_tokens() -> None:
    options = {"prompt": [1], "min_tokens": 2, "stop_token_ids": frozenset({0})}
    found = rules(row(1, 1, 1, 1), answered([3], **options))
    torch.testing.assert_close(found, row(FORBIDDEN, 1, FORBIDDEN, 1))
    assert rules(row(1, 1, 1, 1), answered([3, 3], **options)).tolist() == [[1, 1, 1, 1]]


def test_an_ignored_end_of_sequence_stays_allowed_before_min_tokens() -> None:
    sequence = make_sequence(1, prompt=[0], min_tokens=2, ignore_eos=True)
    assert rules(row(1, 1, 1), sequence).tolist() == [[1, 1, 1]]


def test_each_row_has_its_own_rules() -> None:
    logits = torch.ones(4, 5)
    found = rules(
        logits,
        make_sequence(1, prompt=[0], logit_bias={1: 1.0}),
        make_sequence(2, prompt=[0]),
        make_sequence(3, prompt=[3], repetition_penalty=2.0),
        make_sequence(4, prompt=[0], min_tokens=3, stop_token_ids=frozenset({1, 3, 4})),
    )
    low = FORBIDDEN
    expected = [[1, 2, 1, 1, 1], [1, 1, 1, 1, 1], [1, 1, 1, 0.5, 1], [1, low, low, low, low]]
    torch.testing.assert_close(found, torch.tensor(expected))
    assert logits.tolist() == [[1] * 5] * 4


def test_a_place_keeps_nothing_of_the_sequence_before() -> None:
    asking = make_sequence(
        1, prompt=[0], logit_bias={1: 5.0, 2: 1.0}, frequency_penalty=1.0, min_tokens=5
    )
    plain = make_sequence(2, prompt=[1])
    other = make_sequence(3, prompt=[2], logit_bias={3: 1.0}, repetition_penalty=2.0)
    table = table_of([asking, asking], 4)
    table.write([0, 1], [plain, other])
    plan = plan_for([asking, plain, other])
    found = adjusted(torch.ones(2, 4), table, torch.arange(2), torch.tensor([1, 1]), plan)
    assert found.tolist() == [[1, 1, 1, 1], [1, 1, 0.5, 2]]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_no_rule_hides_a_numeric_fault(value: float) -> None:
    sequence = make_sequence(1, prompt=[0], repetition_penalty=2.0, min_tokens=3)
    assert rules(row(value, 1, value), sequence).isnan().all()
