from __future__ import annotations

from collections.abc import Callable

import pytest
import torch

from engine_svc.kernels import choice as module
from engine_svc.kernels.choice import Choice, DoesNotFit
from engine_svc.kernels.tiles import BUCKETS, FEW_ROWS, Tile, candidates

SMALL, LARGE = (960, 576), (6144, 4096)


def rows(count: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.zeros(count, 1, dtype=dtype)


@pytest.fixture
def timed(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[Tile | None], float]], Choice]:
    """A choice whose trials take as long as a function says."""
    monkeypatch.setattr(module, "replayed_ms", lambda work: work())

    def make(took_ms: Callable[[Tile | None], float]) -> Choice:
        made = Choice(*SMALL)
        made.measure(lambda _: lambda tile: lambda: took_ms(tile))
        return made

    return make


def test_the_fastest_tile_is_chosen_for_each_bucket(timed: Callable[..., Choice]) -> None:
    chosen = timed(lambda tile: 9.0 if tile is None else 1.0 / tile.out)
    for bucket in BUCKETS[1:]:
        widest = max(candidates(bucket, *SMALL), key=lambda tile: tile.out)
        for count in (bucket // 2 + 1, bucket):
            found = chosen.tile(rows(count))
            assert found is not None
            assert found.out == widest.out


def test_a_tie_is_cublas_s(timed: Callable[..., Choice]) -> None:
    chosen = timed(lambda tile: 1.0 if tile is None else 0.98)
    assert chosen.tile(rows(32)) is None


def test_a_tile_that_does_not_fit_is_passed_over(timed: Callable[..., Choice]) -> None:
    first, second = candidates(8, *SMALL)

    def took_ms(tile: Tile | None) -> float:
        if tile == first:
            raise DoesNotFit
        return 1.0 if tile is None else 0.5

    assert timed(took_ms).tile(rows(8)) == second


@pytest.mark.parametrize(
    ("shape", "counts"), [(SMALL, range(1, FEW_ROWS + 1)), (LARGE, (1,))], ids=["small", "large"]
)
def test_few_rows_take_plain_sums_untried(shape: tuple[int, int], counts: range) -> None:
    for count in counts:
        found = Choice(*shape).tile(rows(count))
        assert found is not None
        assert found.rows == 1


def test_a_large_weight_is_cublas_s_from_the_second_row_on() -> None:
    large = Choice(*LARGE)
    large.measure(lambda _: pytest.fail("tried"))
    assert large.tile(rows(2)) is None


def test_many_rows_and_other_dtypes_are_cublas_s() -> None:
    assert Choice(*SMALL).tile(rows(BUCKETS[-1] + 1)) is None
    assert Choice(*SMALL).tile(rows(1, torch.float16)) is None
    assert Choice(*SMALL).tile(rows(1, torch.float32)) is None
