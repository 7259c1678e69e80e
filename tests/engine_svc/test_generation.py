"""Whole engines around the tiny random model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from engine_svc.messages import Cancel
from engine_svc.model.loading import load
from engine_svc.sequence import FailureCode

from .conftest import CPU, MakeEngine
from .turns import Turns, alone, make_sequence

PROMPTS = [[7], list(range(100, 140)), [3, 1, 4, 1, 5], list(range(60)), [9, 9]]


def test_sequences_that_join_and_leave_get_what_they_get_alone(make_engine: MakeEngine) -> None:
    params: list[dict[str, Any]] = [
        {"temperature": 0.0, "max_tokens": 12 + 5 * i} for i in range(4)
    ]
    params.append({"temperature": 1.0, "top_p": 0.9, "seed": 11, "max_tokens": 30})
    turns = Turns(make_engine(max_sequences=3))
    for i, prompt in enumerate(PROMPTS):
        turns.start(make_sequence(i, prompt, **params[i]))
        turns.turn(2)
    turns.until_idle()
    for i, prompt in enumerate(PROMPTS):
        assert turns.tokens(i) == alone(make_engine, make_sequence(i, prompt, **params[i]))
    assert turns.is_empty


def test_a_seeded_answer_resumed_from_its_tokens_goes_on_the_same(
    make_engine: MakeEngine,
) -> None:
    drawn: dict[str, Any] = {"temperature": 1.0, "seed": 5}
    whole = alone(make_engine, make_sequence(1, [7, 8], max_tokens=20, **drawn))
    resumed = make_sequence(2, [7, 8, *whole[:9]], max_tokens=11, **drawn)
    assert alone(make_engine, resumed) == whole[9:]


def test_a_prompt_with_a_full_context_generates_its_one_token(make_engine: MakeEngine) -> None:
    sequence = make_sequence(1, [5] * 511, max_tokens=1)
    assert len(alone(make_engine, sequence)) == 1


def test_a_block_that_was_used_before_changes_no_answer(make_engine: MakeEngine) -> None:
    turns = Turns(make_engine(kv_tokens=512))
    turns.start(make_sequence(1, [5] * 400, max_tokens=100))
    turns.turn(50)
    turns.post(Cancel((1,)))
    turns.start(make_sequence(2, [6, 7], max_tokens=30))
    turns.until_idle()
    assert turns.tokens(2) == alone(make_engine, make_sequence(2, [6, 7], max_tokens=30))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_sequence_with_nan_inside_fails_alone_and_poisons_no_later_one(
    make_engine: MakeEngine, tiny_folder: Path, value: float
) -> None:
    broken = load(str(tiny_folder), device=CPU, dtype=torch.float32)
    broken.model._embedding[777] = value
    turns = Turns(make_engine(broken, kv_tokens=128))
    turns.start(
        make_sequence(1, [5, 6] * 5 + [777, 8], max_tokens=4),
        make_sequence(2, [5, 6, 7, 8], max_tokens=40),
    )
    turns.turn(2)
    # Takes the block that the first has left, and is shorter than where the fault lies.
    turns.start(make_sequence(3, [8, 7, 6], max_tokens=40))
    turns.until_idle()
    assert turns.failed(1).code is FailureCode.NUMERIC
    assert turns.tokens(2) == alone(make_engine, make_sequence(2, [5, 6, 7, 8], max_tokens=40))
    assert turns.tokens(3) == alone(make_engine, make_sequence(3, [8, 7, 6], max_tokens=40))
    assert turns.is_empty


def test_logprobs_come_with_every_token(make_engine: MakeEngine) -> None:
    turns = Turns(make_engine())
    turns.start(make_sequence(1, logprobs=2, max_tokens=5), make_sequence(2, max_tokens=5))
    turns.until_idle()
    for token in turns.news(1):
        assert token.logprobs is not None
        # Greedy: the sampled token is the most probable one.
        assert token.logprobs.top_token_ids[0] == token.token_id
        assert token.logprobs.top_logprobs[0] == pytest.approx(token.logprobs.logprob)
    assert all(token.logprobs is None for token in turns.news(2))


def test_a_bias_decides_the_answer(make_engine: MakeEngine) -> None:
    sequence = make_sequence(1, logit_bias={321: 1000.0}, max_tokens=4)
    assert alone(make_engine, sequence) == [321] * 4
