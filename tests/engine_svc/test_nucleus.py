from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from engine_svc import nucleus
from engine_svc.nucleus import Filters, draw
from engine_svc.random_stream import keys, mixed_seed


def plain_distribution(
    logits: list[float], temperature: float, top_k: int, top_p: float, min_p: float
) -> list[tuple[int, float]]:
    """Tokens that pass the filters with their probabilities, most probable first."""
    scaled = [value / temperature for value in logits]
    exps = [2.718281828459045 ** (value - max(scaled)) for value in scaled]
    order = sorted(((e / sum(exps), i) for i, e in enumerate(exps)), key=lambda x: (-x[0], x[1]))
    if top_k:
        order = order[:top_k]
    mass = sum(p for p, _ in order)
    kept, before = [], 0.0
    for p, token in order:
        if before < top_p * mass and p >= min_p * order[0][0]:
            kept.append((token, p))
        before += p
    total = sum(p for _, p in kept)
    return [(token, p / total) for token, p in kept]


def filters(rows: int, temperature: float, top_k: int, top_p: float, min_p: float) -> Filters:
    def column(value: float) -> torch.Tensor:
        return torch.full((rows, 1), float(value))

    return Filters(column(temperature), column(top_p), column(min_p), column(top_k).long())


CASES = [
    (1.0, 0, 1.0, 0.0),
    (0.5, 0, 1.0, 0.0),
    (1.7, 5, 1.0, 0.0),
    (1.0, 0, 0.8, 0.0),
    (1.0, 0, 1.0, 0.1),
    (0.7, 40, 0.95, 0.02),
    (1.0, 1, 0.5, 0.5),
    (1.0, 10_000, 0.9, 0.0),
    (1.0, 3, 0.7, 0.0),
]


def some_keys(rows: int, seed: int = 0) -> torch.Tensor:
    return keys(torch.tensor(mixed_seed(seed)), torch.arange(rows)).unsqueeze(1)


@pytest.mark.parametrize("heads", [(), (4, 16)], ids=["whole order", "heads first"])
@pytest.mark.parametrize(("temperature", "top_k", "top_p", "min_p"), CASES)
def test_draws_follow_the_filtered_distribution(
    monkeypatch: pytest.MonkeyPatch,
    heads: tuple[int, ...],
    temperature: float,
    top_k: int,
    top_p: float,
    min_p: float,
) -> None:
    monkeypatch.setattr(nucleus, "HEADS", heads)
    logits = torch.randn(60, generator=torch.Generator().manual_seed(3)) * 2
    expected = dict(plain_distribution(logits.tolist(), temperature, top_k, top_p, min_p))
    rows = 20_000
    chosen = filters(rows, temperature, top_k, top_p, min_p)
    counts = torch.bincount(draw(logits.expand(rows, -1), chosen, some_keys(rows)), minlength=60)
    assert {token for token, count in enumerate(counts.tolist()) if count} <= set(expected)
    for token, probability in expected.items():
        deviation = (probability * (1 - probability) / rows) ** 0.5
        assert counts[token].item() / rows == pytest.approx(probability, abs=4.5 * deviation)


@settings(max_examples=50)
@given(
    seed=st.integers(0, 1000),
    top_k=st.integers(0, 300),
    top_p=st.floats(0.01, 1.0),
    min_p=st.floats(0, 1),
)
def test_trying_heads_first_changes_no_draw(
    seed: int, top_k: int, top_p: float, min_p: float
) -> None:
    logits = torch.randn(3, 300, generator=torch.Generator().manual_seed(seed))
    arguments = (logits, filters(3, 1.0, top_k, top_p, min_p), some_keys(3, seed))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nucleus, "HEADS", (8, 64))
        with_heads = draw(*arguments)
        patch.setattr(nucleus, "HEADS", ())
        assert with_heads.tolist() == draw(*arguments).tolist()


def test_logits_that_differ_in_their_last_bits_give_the_same_draws() -> None:
    rows = 2000
    generator = torch.Generator().manual_seed(3)
    logits = torch.randn(rows, 300, generator=generator)
    noise = torch.randn(rows, 300, generator=generator) * 1e-6
    for top_p in (0.9, 1.0):
        chosen = filters(rows, 1.0, 0, top_p, 0.0)
        first, second = (draw(each, chosen, some_keys(rows)) for each in (logits, logits + noise))
        assert first.tolist() == second.tolist()


def test_a_row_without_numbers_spoils_no_other() -> None:
    logits = torch.randn(3, 50)
    for top_p in (0.9, 1.0):
        chosen = filters(3, 1.0, 0, top_p, 0.0)
        healthy = draw(logits, chosen, some_keys(3))
        broken = logits.clone()
        broken[1] = float("nan")
        drawn = draw(broken, chosen, some_keys(3))
        assert drawn[[0, 2]].tolist() == healthy[[0, 2]].tolist()
