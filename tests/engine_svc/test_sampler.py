from __future__ import annotations

from typing import Any

import pytest
import torch

from engine_svc.sampler import NUMERIC_FAULT, Sampler

from .turns import make_sequence

SAMPLER = Sampler(frozenset({2}))


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 1000, generator=torch.Generator().manual_seed(seed)) * 3


def tokens(logits: torch.Tensor, *params: dict[str, Any]) -> list[int]:
    sequences = [make_sequence(i, **p) for i, p in enumerate(params)]
    return [sampled.token_id for sampled in SAMPLER.sample(logits, sequences)]


def test_temperature_zero_takes_the_most_probable() -> None:
    logits = random_logits(3)
    assert tokens(logits, {}, {}, {}) == logits.argmax(-1).tolist()


def test_a_temperature_that_would_overflow_is_greedy() -> None:
    logits = random_logits(1)
    assert tokens(logits, {"temperature": 1e-38}) == logits.argmax(-1).tolist()


def test_greedy_and_drawn_rows_share_a_batch() -> None:
    logits = random_logits(1).expand(3, -1)
    drawn: dict[str, Any] = {"temperature": 1.5, "seed": 4}
    mixed = tokens(logits, {}, drawn, {})
    assert mixed == [tokens(logits[:1], p)[0] for p in ({}, drawn, {})]


def test_a_seeded_row_draws_the_same_alone_and_in_a_batch() -> None:
    logits = random_logits(6, seed=5)
    params: list[dict[str, Any]] = [
        {"temperature": 1.0, "top_p": 0.9, "seed": seed} for seed in range(6)
    ]
    together = tokens(logits, *params)
    assert together == [tokens(logits[i : i + 1], params[i])[0] for i in range(6)]
    assert len(set(together)) > 1


def test_the_draw_depends_on_the_position_and_not_on_where_prompt_and_answer_meet() -> None:
    # A sequence that is resumed has the tokens sent so far in its prompt.
    logits = random_logits(1).expand(2, -1)
    whole = make_sequence(1, prompt=[5, 6, 7, 8], temperature=1.0, seed=3)
    begun = make_sequence(2, prompt=[5, 6], temperature=1.0, seed=3)
    begun.output = [7, 8]
    first, second = SAMPLER.sample(logits, [whole, begun])
    assert first.token_id == second.token_id


def test_draws_change_from_position_to_position() -> None:
    logits = random_logits(1).expand(20, -1)
    sequences = [make_sequence(1, prompt=range(i + 1), temperature=2.0, seed=3) for i in range(20)]
    assert len({sampled.token_id for sampled in SAMPLER.sample(logits, sequences)}) > 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_fails_alone(value: float, temperature: float) -> None:
    logits = random_logits(3)
    params: list[dict[str, Any]] = [{"temperature": temperature, "seed": 1}] * 3
    healthy = tokens(logits, *params)
    logits[1, 17] = value
    assert tokens(logits, *params) == [healthy[0], NUMERIC_FAULT, healthy[2]]


def test_a_bias_of_minus_infinity_by_a_rule_is_no_fault() -> None:
    logits = random_logits(1)
    assert tokens(logits, {"min_tokens": 1})[0] != NUMERIC_FAULT


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = random_logits(2)
    plain = make_sequence(1)
    asking = make_sequence(2, logprobs=3, logit_bias={9: 100.0})
    without, found = SAMPLER.sample(logits, [plain, asking])
    assert without.logprobs is None
    assert found.token_id == 9
    table = logits[1].log_softmax(-1)
    top = table.topk(3)
    assert found.logprobs is not None
    assert found.logprobs.logprob == pytest.approx(table[9].item())
    assert list(found.logprobs.top_token_ids) == top.indices.tolist()
    assert list(found.logprobs.top_logprobs) == pytest.approx(top.values.tolist())


def test_each_row_gets_as_many_alternatives_as_it_asks_for() -> None:
    sequences = [make_sequence(i, logprobs=i) for i in range(3)]
    found = SAMPLER.sample(random_logits(3), sequences)
    assert [len(s.logprobs.top_token_ids) for s in found if s.logprobs] == [0, 1, 2]
