"""How kernels are launched, and how they follow one another on the device.

With programmatic dependent launch (CUDA guide, section 6.2.4.5) a kernel's blocks are placed
while its predecessor still runs, and wait inside for its results: what a launch costs is
hidden. Every kernel here waits before it touches what another may have written.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, which tests use where there is no GPU."""


@cache
def overlaps() -> bool:
    """Whether the device can start a kernel before its predecessor has ended (Hopper on)."""
    return not INTERPRETED and torch.cuda.get_device_capability() >= (9, 0)


def overlap(wanted: bool = True) -> dict[str, Any]:
    """The arguments that every launch gets."""
    if wanted and overlaps():
        return {"OVERLAP": True, "launch_pdl": True}
    return {"OVERLAP": False}


@cache
def multiprocessors() -> int:
    """Of the current device; of an H100 where there is none."""
    if INTERPRETED:
        return 132
    return torch.cuda.get_device_properties(torch.cuda.current_device()).multi_processor_count


class Kernel:
    """A Triton kernel whose compiled forms are found again without Triton's own search.

    That search, over all arguments and options of every launch, costs the host some 40 µs: more
    than most kernels take. Integers that are arguments must be exempt from specialisation.
    """

    def __init__(self, function: Any) -> None:
        """`function` is what `triton.jit` made; its constants follow its arguments."""
        self._function = function
        self._compiled: dict[tuple[object, ...], tuple[Any, tuple[object, ...]]] = {}

    def launch(
        self,
        grid: tuple[int, int, int],
        arguments: tuple[Tensor | float | None, ...],
        constants: Mapping[str, object],
        *,
        warps: int = 4,
        overlapped: bool = True,
    ) -> None:
        """Starts the kernel on the current stream."""
        traits = (_trait(argument) for argument in arguments)
        key = (*traits, *constants.values(), warps, overlapped)
        found = self._compiled.get(key)
        if found is not None:
            compiled, tail = found
            compiled[grid](*arguments, *tail)
            return
        options = overlap(overlapped)
        compiled = self._function[grid](*arguments, **constants, **options, num_warps=warps)
        if not INTERPRETED:
            names = self._function.arg_names[len(arguments) :]
            values = {**constants, "OVERLAP": options["OVERLAP"]}
            self._compiled[key] = compiled, tuple(values[name] for name in names)


def _trait(argument: Tensor | float | None) -> object:
    """What Triton compiles for: the dtype of a tensor, whether it is aligned; presence."""
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % 16 == 0
    return argument is None
