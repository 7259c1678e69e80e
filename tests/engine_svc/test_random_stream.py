from __future__ import annotations

import math

import pytest
import torch

from engine_svc.random_stream import exponentials, keys, mixed_seed

MASK = (1 << 64) - 1
GAMMA = 0x9E3779B97F4A7C15


def splitmix64(state: int) -> int:
    """Steele, Lea and Flood 2014, figure 17, on Python's unbounded integers."""
    state = ((state ^ (state >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    state = ((state ^ (state >> 27)) * 0x94D049BB133111EB) & MASK
    return state ^ (state >> 31)


def plain(seed: int, position: int, token: int) -> float:
    key = splitmix64((splitmix64(seed) + (position + 1) * GAMMA) & MASK)
    bits = splitmix64((key + (token + 1) * GAMMA) & MASK) >> 32
    return -math.log1p(-(bits + 0.5) / 2**32)


def draws(seeds: list[int], positions: list[int], tokens: int) -> torch.Tensor:
    row_keys = keys(torch.tensor([mixed_seed(seed) for seed in seeds]), torch.tensor(positions))
    return exponentials(row_keys.unsqueeze(1), torch.arange(tokens))


def test_it_is_splitmix64_over_seed_position_and_token() -> None:
    seeds, positions = [0, 1, 2**64 - 1, 2**63], [0, 17, 2047, 5]
    expected = [
        [plain(seed, position, token) for token in range(50)]
        for seed, position in zip(seeds, positions, strict=True)
    ]
    torch.testing.assert_close(
        draws(seeds, positions, 50), torch.tensor(expected), rtol=1e-4, atol=0.0
    )


def test_draws_are_exponential_and_above_zero() -> None:
    found = draws([7] * 100, list(range(100)), 10_000).flatten()
    assert found.min() > 0
    assert found.mean().item() == pytest.approx(1, abs=0.005)
    below = (found < math.log(2)).float().mean().item()
    assert below == pytest.approx(0.5, abs=0.002)


def test_small_draws_are_as_frequent_as_they_should_be() -> None:
    # They let improbable tokens win: 1e-4 is far beyond what a coarse draw would give.
    found = draws([7] * 1000, list(range(1000)), 10_000).flatten()
    for bound in (1e-4, 1e-6):
        expected = len(found) * bound
        assert (found < bound).sum().item() == pytest.approx(expected, abs=4 * expected**0.5)
    assert len(set(found[found < 1e-4].tolist())) > 500


@pytest.mark.parametrize("neighbours", [([7, 8], [0, 0]), ([7, 7], [0, 1])])
def test_neighbouring_seeds_and_positions_share_no_stream(
    neighbours: tuple[list[int], list[int]],
) -> None:
    first, second = draws(*neighbours, 10_000)
    assert abs(torch.corrcoef(torch.stack((first, second)))[0, 1].item()) < 0.05
    assert abs(torch.corrcoef(torch.stack((first[1:], second[:-1])))[0, 1].item()) < 0.05
