"""Where a figure comes from: hardware, versions, commit and command.

Owns what every result file records beside its figures, so that a published number can
be measured again. Knows nothing of what was measured. Called by benchmarks, and by the
predictor's training and evaluation.
"""

from __future__ import annotations

import os
import platform
import subprocess
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import ssjf_bench

PACKAGES: Final = (
    "ssjf",
    "torch",
    "transformers",
    "tokenizers",
    "numpy",
    "onnx",
    "onnxruntime",
    "onnxruntime-gpu",
    "grpcio",
)
COMMIT_VARIABLE: Final = "SSJF_COMMIT"
"""Environment variable that names the commit where the code lies outside of its checkout."""
DATA_VARIABLE: Final = "SSJF_DATA"
"""Environment variable that names the folder of data; commands are written down with it."""
TIMEOUT_S: Final = 10.0


def provenance(command: Sequence[str]) -> dict[str, Any]:
    """What is needed to measure again, as plain data for a JSON file.

    `command` is the command line; what lies in $SSJF_DATA is named by it. `commit` is None
    without a checkout (and without SSJF_COMMIT); `uncommitted_changes` lists the checkout's
    files that differ from it.
    """
    commit, changes = _commit()
    return {
        "hardware": hardware(),
        "versions": versions(),
        "commit": commit,
        "uncommitted_changes": changes,
        "command": [_as_typed(each) for each in command],
    }


def _as_typed(argument: str) -> str:
    """The argument before the shell put the folder of data for the variable."""
    folder = os.environ.get(DATA_VARIABLE, "").rstrip("/")
    return argument.replace(f"{folder}/", f"${DATA_VARIABLE}/") if folder else argument


def hardware() -> dict[str, Any]:
    """The machine: its GPUs by name (empty without any), CPU model, cores, memory."""
    return {
        "gpus": _lines("nvidia-smi", "--query-gpu=name", "--format=csv,noheader"),
        "cpu": _cpu_model(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
    }


def versions() -> dict[str, str]:
    """Python, and each of `PACKAGES` that is installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _commit() -> tuple[str | None, list[str]]:
    folder = str(Path(ssjf_bench.__file__).resolve().parent)
    # Tracked: a package that is installed below some other checkout has no commit of its own.
    if not _lines("git", "-C", folder, "ls-files", "__init__.py"):
        return os.environ.get(COMMIT_VARIABLE), []
    changes = _lines("git", "-C", folder, "status", "--porcelain", "--untracked-files=no")
    names = [line.split(maxsplit=1)[-1] for line in changes]
    return next(iter(_lines("git", "-C", folder, "rev-parse", "HEAD")), None), names


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def _lines(*command: str) -> list[str]:
    """What a program prints, line by line; empty where it is not there or fails."""
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=TIMEOUT_S, check=True
        )
    except (OSError, subprocess.SubprocessError):
        return []
    return [line.strip() for line in done.stdout.splitlines() if line.strip()]
