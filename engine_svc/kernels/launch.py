"""How kernels follow one another on the device.

With programmatic dependent launch (CUDA guide, section 6.2.4.5) a kernel's blocks are placed
while its predecessor still runs, and wait inside for its results: what a launch costs is
hidden. Every kernel here waits before it touches what another may have written.
"""

from __future__ import annotations

import os
from functools import cache
from typing import Any

import torch

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
"""Whether kernels run in Triton's interpreter, which tests use where there is no GPU."""


@cache
def overlaps() -> bool:
    """Whether the device can start a kernel before its predecessor has ended (Hopper on)."""
    return not INTERPRETED and torch.cuda.get_device_capability() >= (9, 0)


@cache
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
