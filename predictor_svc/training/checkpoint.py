"""What a training run needs to go on after a stop: one file, replaced after each epoch.

Owns the file and the check that it belongs to the run that is resumed. Called by `train`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from predictor_svc.model_dir import ModelConfig
from predictor_svc.training.data import Example

if TYPE_CHECKING:
    from predictor_svc.training.train import Epoch, Run


class CheckpointError(ValueError):
    """A checkpoint that is broken or of another run."""


def signature(run: Run, config: ModelConfig, data: Sequence[Example]) -> str:
    """Equal for runs whose epochs can follow one another: task, options, seed and data.

    Of `data` the LLMs and lengths count, in their order: enough to tell two sets apart.
    """
    parts = [run.task, run.options.model_dump(), run.seed, config.model_dump()]
    digest = hashlib.sha256(json.dumps(parts, sort_keys=True).encode())
    for example in data:
        digest.update(f"{example.model}: {example.lengths.tokens}\n".encode())
    return digest.hexdigest()[:16]


def save(
    path: Path,
    run_signature: str,
    loop: dict[str, Any],
    epochs: Sequence[Epoch],
    best: dict[str, Tensor],
) -> None:
    """Replaces the file whole: a stop while writing leaves the one before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".writing")
    content = {
        "signature": run_signature,
        "loop": loop,
        "epochs": [asdict(epoch) for epoch in epochs],
        "best": best,
    }
    torch.save(content, scratch)
    scratch.replace(path)


def load(path: Path, run_signature: str) -> dict[str, Any]:
    """The file's content. Raises CheckpointError where it is no checkpoint of this run."""
    try:
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises whatever its unpickler does
        raise CheckpointError(f"{path}: cannot be read as a checkpoint: {error}") from error
    if not isinstance(stored, dict) or stored.get("signature") != run_signature:
        raise CheckpointError(
            f"{path}: of a run with another task, option, seed or data; delete it to start anew"
        )
    return dict(stored)
