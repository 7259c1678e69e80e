from __future__ import annotations

from typing import Any

import pytest
import torch

from engine_svc.results import NUMERIC_FAULT
from engine_svc.sampler import DeviceSampler
from engine_svc.sampling_plan import Plan

from .one_step import EOS, plan_for, sample
from .turns import make_sequence


def random_logits(rows: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, 1000, generator=torch.Generator().manual_seed(seed)) * 3


def tokens(logits: torch.Tensor, *params: dict[str, Any]) -> list[int]:
    sequences = [make_sequence(i, **p) for i, p in enumerate(params)]
    return sample(logits, sequences).tokens.tolist()


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
    first, second = sample(logits, [whole, begun]).tokens.tolist()
    assert first == second


def test_draws_change_from_position_to_position() -> None:
    logits = random_logits(1).expand(20, -1)
    sequences = [make_sequence(1, prompt=range(i + 1), temperature=2.0, seed=3) for i in range(20)]
    assert len(set(sample(logits, sequences).tokens.tolist())) > 5


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_row_that_is_not_finite_fails_alone(value: float, temperature: float) -> None:
    logits = random_logits(3)
    params: list[dict[str, Any]] = [{"temperature": temperature, "seed": 1}] * 3
    healthy = tokens(logits, *params)
    logits[1, 17] = value
    assert tokens(logits, *params) == [healthy[0], NUMERIC_FAULT, healthy[2]]


def test_logprobs_are_of_the_raw_logits() -> None:
    logits = random_logits(1)
    draws = sample(logits, [make_sequence(2, logprobs=3, logit_bias={9: 100.0})])
    assert draws.tokens.tolist() == [9]
    table = logits[0].log_softmax(-1)
    top = table.topk(3)
    assert draws.logprobs is not None
    found = draws.logprobs.to_host().of(0, 3)
    assert found.logprob == pytest.approx(table[9].item())
    assert list(found.top_token_ids) == top.indices.tolist()
    assert list(found.top_logprobs) == pytest.approx(top.values.tolist())


def test_logprobs_come_where_somebody_asks_and_as_many_as_asked_for() -> None:
    assert sample(random_logits(2), [make_sequence(1), make_sequence(2)]).logprobs is None
    draws = sample(random_logits(3), [make_sequence(i, logprobs=i) for i in range(3)])
    assert draws.logprobs is not None
    assert [len(draws.logprobs.of(i, i).top_token_ids) for i in range(3)] == [0, 1, 2]


def test_the_chosen_tokens_are_the_next_input_of_their_places() -> None:
    sampler = DeviceSampler(
        places=4, vocabulary=1000, eos_token_ids=EOS, device=torch.device("cpu")
    )
    logits = random_logits(3)
    logits[1, 0] = float("nan")
    places = torch.tensor([3, 0, 1])
    chosen = sampler.sample(logits, places, torch.full((3,), 5), Plan()).tokens.tolist()
    # A row that failed may run once more before the host knows: its input is a valid token.
    assert sampler.last_tokens.tolist() == [0, chosen[2], 0, chosen[0], 0]


def test_penalties_see_the_tokens_of_steps_that_the_host_has_not_seen() -> None:
    sampler = DeviceSampler(places=2, vocabulary=8, eos_token_ids=EOS, device=torch.device("cpu"))
    sequence = make_sequence(1, prompt=[1], frequency_penalty=2.0, max_tokens=4)
    sampler.start([1], [sequence])
    logits = torch.tensor([[0.0, 0.0, 0.0, 0.0, 0.0, 3.0, 4.0, 0.0]])
    found = [
        sampler.sample(logits, torch.tensor([1]), torch.tensor([1 + n]), plan_for([sequence]))
        for n in range(5)
    ]
    assert [int(draws.tokens) for draws in found] == [6, 5, 6, 5, 0]


def test_a_sequence_that_goes_on_after_a_preemption_is_penalised_as_before() -> None:
    logits = random_logits(1)
    sequence = make_sequence(1, prompt=[1], frequency_penalty=1.5, presence_penalty=0.5)
    sampler = DeviceSampler(
        places=2, vocabulary=1000, eos_token_ids=EOS, device=torch.device("cpu")
    )
    sampler.start([0], [sequence])
    plan = plan_for([sequence])
    for n in range(6):
        draws = sampler.sample(logits, torch.tensor([0]), torch.tensor([1 + n]), plan)
        sequence.output.append(int(draws.tokens))
    sampler.start([1], [sequence])
    undisturbed, resumed = (
        sampler.sample(logits, torch.tensor([place]), torch.tensor([7]), plan) for place in (0, 1)
    )
    assert undisturbed.tokens.tolist() == resumed.tokens.tolist()
    assert len(set(sequence.output)) > 1


def test_a_plan_that_says_more_than_is_asked_for_changes_no_token() -> None:
    logits = random_logits(4)
    sequences = [make_sequence(i, prompt=[i], temperature=i / 2, seed=i) for i in range(4)]
    everything = Plan(True, True, True, True, True, 20)
    sampler = DeviceSampler(
        places=4, vocabulary=1000, eos_token_ids=EOS, device=torch.device("cpu")
    )
    sampler.start(range(4), sequences)
    places, lengths = torch.arange(4), torch.ones(4, dtype=torch.int64)
    lean = sampler.sample(logits, places, lengths, plan_for(sequences))
    full = sampler.sample(logits, places, lengths, everything)
    assert lean.tokens.tolist() == full.tokens.tolist()
