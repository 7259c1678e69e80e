"""The kernels of sampling against the plain reference and the path on CPU.

On a GPU, and without one in Triton's interpreter: TRITON_INTERPRET=1 pytest -m gpu.
"""

from __future__ import annotations

import os
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from engine_svc.logit_rules import adjusted
from engine_svc.params import SamplingParams
from engine_svc.sampling_plan import Plan
from engine_svc.sequence import Sequence

from .one_step import lengths_of, plan_for, sample, table_of
from .plain_sampling import kept
from .test_sampling_distribution import chi_square_p
from .turns import make_sequence

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(
        not (torch.cuda.is_available() or INTERPRETED), reason="needs CUDA or the interpreter"
    ),
    pytest.mark.timeout(300),
    # The interpreter computes with NumPy, which warns of what a GPU does in rows with NaN.
    pytest.mark.filterwarnings("ignore:(invalid|divide|overflow):RuntimeWarning"),
]
DEVICE = "cpu" if INTERPRETED else "cuda"
VOCABULARY = 9001  # three tiles of a race and five of a cut, the last ones not full
MOST: dict[str, Any] = {"temperature": 1.0}
KINDS: list[dict[str, Any]] = [
    {},
    MOST,
    MOST | {"top_p": 0.9},
    MOST | {"top_p": 0.9999, "temperature": 2.0},
    MOST | {"top_k": 1},
    MOST | {"top_k": 50},
    MOST | {"top_k": 100_000},
    MOST | {"min_p": 0.05},
    MOST | {"temperature": 0.7, "top_k": 40, "top_p": 0.8, "min_p": 0.02},
]
dtypes = pytest.mark.parametrize(
    "dtype", [torch.float32, torch.bfloat16, torch.float16], ids=lambda d: str(d).split(".")[1]
)


def some_logits(rows: int, dtype: torch.dtype, vocabulary: int = VOCABULARY) -> Tensor:
    drawn = torch.randn(rows, vocabulary, generator=torch.Generator().manual_seed(1))
    return (drawn * 3).to(dtype)


def choose(logits: Tensor, sequences: list[Sequence], plan: Plan | None = None) -> Tensor:
    """By the kernels; also what they put down as the places' newest tokens is checked."""
    from engine_svc.kernels import draws

    table = table_of(sequences, logits.shape[1], DEVICE)
    places = torch.arange(len(sequences), device=DEVICE)
    lengths = lengths_of(sequences).to(DEVICE)
    plan = plan or plan_for(sequences)
    tokens = draws.choose(logits.to(DEVICE), table, places, lengths, plan).cpu()
    assert table.last_tokens[:-1].cpu().tolist() == tokens.clamp(min=0).tolist()
    return tokens


@dtypes
def test_the_kernels_choose_what_the_path_on_cpu_chooses(dtype: torch.dtype) -> None:
    sequences = [make_sequence(i, seed=i, **kind) for i, kind in enumerate(KINDS)]
    logits = some_logits(len(sequences), dtype)
    expected = sample(logits.float(), sequences).tokens
    assert choose(logits, sequences).tolist() == expected.tolist()


@dtypes
def test_greedy_takes_the_first_of_equals(dtype: torch.dtype) -> None:
    logits = some_logits(2, dtype).clamp(max=2.0)
    sequences = [make_sequence(0), make_sequence(1)]
    assert choose(logits, sequences).tolist() == logits.float().argmax(-1).tolist()


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("kind", [{}, MOST, MOST | {"top_p": 0.9, "top_k": 9}], ids=str)
def test_a_row_that_is_not_finite_fails_alone(kind: dict[str, Any], value: float) -> None:
    sequences = [make_sequence(i, seed=i, **kind) for i in range(3)]
    logits = some_logits(3, torch.float32)
    healthy = choose(logits, sequences).tolist()
    logits[1, VOCABULARY - 1] = value
    assert choose(logits, sequences).tolist() == [healthy[0], -1, healthy[2]]


def test_a_plan_that_says_more_than_is_asked_for_changes_no_token() -> None:
    sequences = [make_sequence(0), make_sequence(1, temperature=1.0)]
    logits = some_logits(2, torch.float32)
    more = Plan(draws=True, filters=True)
    assert choose(logits, sequences, more).tolist() == choose(logits, sequences).tolist()


@dtypes
def test_cuts_keep_exactly_the_plain_set(dtype: torch.dtype) -> None:
    from engine_svc.kernels import cuts

    generator = np.random.default_rng(0)
    params = [
        SamplingParams(
            max_tokens=1,
            temperature=generator.uniform(0.2, 2),
            top_k=int(generator.choice([0, 1, 7, 300])),
            top_p=generator.choice([1.0, generator.uniform(0.05, 1)]),
            min_p=generator.choice([0.0, generator.uniform(0, 0.3)]),
        )
        for _ in range(24)
    ]
    # Coarse, so that many are equal: where a cut goes through equals is what is hard.
    logits = (some_logits(len(params), torch.float32, 400) * 2).round() / 2
    sequences = [Sequence(i, (5,), each) for i, each in enumerate(params)]
    table = table_of(sequences, 400, DEVICE)
    places = torch.arange(len(params), device=DEVICE)
    last, token = cuts.cuts(logits.to(dtype).to(DEVICE), table, places)
    ids = torch.arange(400)
    clear = 0
    for row, each in enumerate(params):
        expected, gap = kept(logits[row].double().numpy(), each)
        if gap < 1e-6:
            continue
        clear += 1
        above = logits[row] > last[row].cpu()
        equal = (logits[row] == last[row].cpu()) & (ids <= token[row].cpu())
        assert ids[above | equal].tolist() == sorted(expected)
    assert clear > 15


@dtypes
def test_penalties_are_those_of_the_path_on_cpu(dtype: torch.dtype) -> None:
    from engine_svc.kernels import penalties

    sequences = [
        make_sequence(0, prompt=range(9), repetition_penalty=1.3),
        make_sequence(1, prompt=range(9)),
        make_sequence(2, prompt=range(9), presence_penalty=0.7, frequency_penalty=-0.4),
        make_sequence(3, prompt=range(9), repetition_penalty=1e-30),
    ]
    for sequence in sequences:
        sequence.output = [8, 9, VOCABULARY - 1, 9]
    logits = some_logits(len(sequences), dtype)
    logits[1, [5, 5000, 9000]] = torch.tensor([np.nan, np.inf, -np.inf], dtype=dtype)
    places = torch.arange(len(sequences))
    expected = adjusted(
        logits, table_of(sequences, VOCABULARY), places, places, Plan(penalties=True)
    )
    assert expected[1].isnan().all()
    found = penalties.penalised(
        logits.to(DEVICE), table_of(sequences, VOCABULARY, DEVICE), places.to(DEVICE), counted=True
    ).cpu()
    assert found[1].isnan().nonzero().squeeze(1).tolist() == [5, 5000, 9000]
    torch.testing.assert_close(found[[0, 2, 3]], expected[[0, 2, 3]])
    copied = penalties.penalised(
        logits.to(DEVICE), table_of(sequences, VOCABULARY, DEVICE), places.to(DEVICE), counted=False
    ).cpu()
    assert copied[0].tolist() == logits[0].float().tolist()


def test_draws_follow_the_distribution() -> None:
    rows = 300 if INTERPRETED else 20_000
    logits = some_logits(1, torch.float32, 40) / 2
    sequences = [make_sequence(seed, temperature=1.0, seed=seed) for seed in range(rows)]
    tokens = choose(logits.repeat(rows, 1), sequences)
    counts = torch.bincount(tokens, minlength=40).numpy()
    assert chi_square_p(counts, logits[0].double().softmax(0).numpy() * rows) > 1e-3
