"""Which prompts a model was trained on, so that its figures can leave them out.

Owns one small file beside the weights: the first 8 bytes of the SHA-256 of every prompt
that training or validation read, without case and spacing. Hashes only: prompts that may
not be passed on stay where they are. Called by the commands `train` and `evaluate`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from predictor_svc.model_dir import ModelDirError
from predictor_svc.training.example import Example

SEEN = "seen.npy"


def save_seen(examples: Iterable[Example], folder: Path) -> None:
    """Writes the hashes, sorted, as a uint64 array."""
    np.save(folder / SEEN, np.array(sorted({_key(each) for each in examples}), dtype=np.uint64))
    (folder / SEEN).chmod(0o644)


def unseen(examples: Iterable[Example], folder: Path) -> list[Example]:
    """The examples whose prompt the model in `folder` never read in training.

    Raises ModelDirError where the folder does not say.
    """
    try:
        known = set(np.load(folder / SEEN, allow_pickle=False).tolist())
    except (OSError, ValueError, EOFError) as error:
        raise ModelDirError(f"{folder / SEEN}: {error}") from error
    return [each for each in examples if _key(each) not in known]


def _key(example: Example) -> int:
    text = " ".join(example.prompt.text.prompt.lower().split())
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
