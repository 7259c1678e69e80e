"""Where a run's time goes: GPU time by kernel, and what the GPU waits for.

Reads PyTorch's profiler; knows nothing of the engine but a function that runs it. Called
by `engine_bench`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final, Protocol

import torch
from torch.profiler import ProfilerActivity
from torch.profiler import profile as recording

TOP: Final = 30
NAME_CHARACTERS: Final = 100


class Ran(Protocol):
    """What came of the run."""

    @property
    def seconds(self) -> float:
        """How long it took."""

    @property
    def steps(self) -> int:
        """How many steps it was."""


def profile(run: Callable[[], Ran]) -> dict[str, Any]:
    """Kernels by their share of a step, in microseconds, largest first.

    `kernels_of_wall`: kernel time over wall time; above 1 where a kernel starts while its
    predecessor still runs. The profiler slows the host down; kernels take what they take.
    """
    on_cuda = torch.cuda.is_available()
    activity = ProfilerActivity.CUDA if on_cuda else ProfilerActivity.CPU
    with recording(activities=[activity], acc_events=True) as recorded:
        ran = run()
    rows = [
        {
            "kernel": each.key[:NAME_CHARACTERS],
            "us_a_step": _self_us(each, on_cuda) / ran.steps,
            "calls_a_step": each.count / ran.steps,
        }
        for each in recorded.key_averages()
        if _self_us(each, on_cuda) > 0  # else a call of the host's
    ]
    rows.sort(key=lambda row: -row["us_a_step"])
    total_us = sum(row["us_a_step"] for row in rows) * ran.steps
    return {
        "steps": ran.steps,
        "step_us": 1e6 * ran.seconds / ran.steps,
        "kernels_of_wall": total_us / (1e6 * ran.seconds),
        "kernels": rows[:TOP],
    }


def _self_us(event: Any, on_cuda: bool) -> float:
    return float(event.self_device_time_total if on_cuda else event.self_cpu_time_total)
