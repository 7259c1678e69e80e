"""The launches of a kernel, with a function that counts in a kernel's place."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from engine_svc.kernels import launch
from engine_svc.kernels.launch import Kernel

GRID = (7, 1, 1)


class Compiled:
    def __init__(self, calls: list[tuple[Any, ...]]) -> None:
        self._calls = calls

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., None]:
        return lambda *arguments: self._calls.append((grid, *arguments))


class Function:
    """What `triton.jit` makes: compiles at each call, returns what it compiled."""

    arg_names = ("x_ptr", "norm_ptr", "eps", "SIZE", "WIDE", "OVERLAP")

    def __init__(self) -> None:
        self.compiled: list[dict[str, Any]] = []
        self.relaunched: list[tuple[Any, ...]] = []

    def __getitem__(self, grid: tuple[int, int, int]) -> Callable[..., Compiled]:
        def run(*arguments: Any, **constants: Any) -> Compiled:
            self.compiled.append(constants)
            return Compiled(self.relaunched)

        return run


@pytest.fixture
def function(monkeypatch: pytest.MonkeyPatch) -> Function:
    monkeypatch.setattr(launch, "INTERPRETED", False)
    monkeypatch.setattr(launch, "overlaps", lambda: True)
    return Function()


def test_a_second_launch_goes_straight_to_what_was_compiled(function: Function) -> None:
    kernel, x = Kernel(function), torch.zeros(64)
    for eps in (1.0, 2.0):
        kernel.launch(GRID, (x, None, eps), {"WIDE": True, "SIZE": 3}, warps=2)
    (options,) = function.compiled
    wanted = {"WIDE": True, "SIZE": 3, "num_warps": 2, "OVERLAP": True, "launch_pdl": True}
    assert options == wanted
    # Constants in the order of the signature, whatever that of the mapping.
    assert function.relaunched == [(GRID, x, None, 2.0, 3, True, True)]


@pytest.mark.parametrize(
    "change",
    ["dtype", "alignment", "presence", "constant", "warps", "overlap"],
)
def test_what_triton_compiles_for_is_told_apart(function: Function, change: str) -> None:
    kernel, x = Kernel(function), torch.zeros(64)
    kernel.launch(GRID, (x, None, 1.0), {"SIZE": 3, "WIDE": False})
    other = {"dtype": x.half(), "alignment": x[1:]}.get(change, x)
    norm = x if change == "presence" else None
    kernel.launch(
        GRID,
        (other, norm, 1.0),
        {"SIZE": 4 if change == "constant" else 3, "WIDE": False},
        warps=8 if change == "warps" else 4,
        overlapped=change != "overlap",
    )
    assert len(function.compiled) == 2
    assert function.relaunched == []
