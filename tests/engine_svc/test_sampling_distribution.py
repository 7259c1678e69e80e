"""Every sampling parameter against the plain reference: exact masks, and chi-square."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from scipy.stats import chisquare

from engine_svc.nucleus import Filters, passing
from engine_svc.params import SamplingParams

from .one_step import sample
from .plain_sampling import distribution, kept
from .turns import make_sequence

ROWS = 20_000
VOCABULARY = 60
PROMPT, ANSWER = (3, 4, 5, 5), [6, 7, 7, 7, 8]
CASES: dict[str, dict[str, Any]] = {
    "temperature": {"temperature": 0.6},
    "high temperature": {"temperature": 2.0},
    "top_p": {"top_p": 0.8},
    "top_k": {"top_k": 5},
    "top_k of all": {"top_k": 10_000},
    "min_p": {"min_p": 0.1},
    "all filters": {"temperature": 0.7, "top_k": 40, "top_p": 0.95, "min_p": 0.02},
    "repetition_penalty": {"repetition_penalty": 1.7},
    "presence_penalty": {"presence_penalty": 1.5},
    "frequency_penalty": {"frequency_penalty": -0.6},
    "all penalties": {
        "repetition_penalty": 0.6,
        "presence_penalty": -1.0,
        "frequency_penalty": 0.5,
    },
    "logit_bias": {"logit_bias": {3: 4.0, 9: -100.0, 59: 2.5}},
    "min_tokens": {"min_tokens": 6, "stop_token_ids": frozenset({4, 41})},
    "min_tokens that are there": {"min_tokens": 5, "stop_token_ids": frozenset({4, 41})},
    "everything": {
        "temperature": 0.9,
        "top_p": 0.9,
        "top_k": 20,
        "min_p": 0.01,
        "repetition_penalty": 1.2,
        "presence_penalty": 0.3,
        "frequency_penalty": 0.2,
        "logit_bias": {3: 2.0},
        "min_tokens": 9,
    },
}


@pytest.mark.parametrize("params", CASES.values(), ids=CASES)
def test_draws_follow_the_plain_distribution(params: dict[str, Any]) -> None:
    logits = torch.randn(VOCABULARY, generator=torch.Generator().manual_seed(3)) * 2
    sequences = [
        make_sequence(seed, PROMPT, **{"temperature": 1.0, "seed": seed, **params})
        for seed in range(ROWS)
    ]
    for sequence in sequences:
        sequence.output = ANSWER
    expected = distribution(logits.numpy(), sequences[0]) * ROWS
    tokens = sample(logits.repeat(ROWS, 1), sequences).tokens
    counts = torch.bincount(tokens, minlength=VOCABULARY).numpy()
    assert counts[expected == 0].sum() == 0
    assert chi_square_p(counts, expected) > 1e-3


def chi_square_p(counts: np.ndarray, expected: np.ndarray) -> float:
    """Of the tokens that are expected at all; the rare ones together."""
    rare = expected < 10
    observed = [*counts[~rare], counts[rare].sum()]
    wanted = [*expected[~rare], expected[rare].sum()]
    if wanted[-1] == 0:
        observed, wanted = observed[:-1], wanted[:-1]
    return 1.0 if len(wanted) == 1 else float(chisquare(observed, wanted, sum_check=False).pvalue)


@settings(max_examples=200)
@given(
    seed=st.integers(0, 10_000),
    step=st.sampled_from([0.0, 0.25, 2.0]),
    temperature=st.floats(0.1, 2.0),
    top_k=st.integers(0, 120),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0, 1) | st.just(0.0),
    width=st.sampled_from([8, 32, 100]),
)
def test_filters_keep_exactly_the_plain_set(
    seed: int,
    step: float,
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
    width: int,
) -> None:
    logits = torch.randn(100, generator=torch.Generator().manual_seed(seed)) * 3
    if step:  # coarse logits, as of bf16: many are equal
        logits = (logits / step).round() * step
    params = SamplingParams(1, temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p)
    expected, gap = kept(logits.double().numpy(), params)
    assume(gap > 1e-6)
    filters = Filters(*map(torch.tensor, ([[temperature]], [[top_p]], [[min_p]], [[top_k]])))
    found, ids, known = passing(logits[None], width, filters)
    if not known:
        found, ids, _ = passing(logits[None], len(logits), filters)
    assert ids[found.isfinite()].tolist() == expected
