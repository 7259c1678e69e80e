"""Which prompts a model was trained on, so that its figures can leave them out.

Owns one small file beside the weights: the first 8 bytes of the SHA-256 of every prompt
that training or validation read, as `split` tells prompts apart. Hashes only: prompts that may
not be passed on stay where they are. Called by the commands `train` and `evaluate`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np

from predictor_svc.model_dir import ModelDirError
from predictor_svc.training.example import Example
from predictor_svc.training.split import Normalised, said

SEEN = "seen.npy"


def save_seen(examples: Iterable[Example], folder: Path) -> None:
    """Writes the hashes, sorted, as a uint64 array."""
    np.save(folder / SEEN, np.array(sorted(set(_keys(examples))), dtype=np.uint64))
    (folder / SEEN).chmod(0o644)


def unseen(examples: Sequence[Example], folder: Path) -> list[Example]:
    """The examples whose prompt the model in `folder` never read in training.

    Raises ModelDirError where the folder does not say.
    """
    try:
        known = set(np.load(folder / SEEN, allow_pickle=False).tolist())
    except (OSError, ValueError, EOFError) as error:
        raise ModelDirError(f"{folder / SEEN}: {error}") from error
    keys = zip(examples, _keys(examples), strict=True)
    return [each for each, key in keys if key not in known]


def _keys(examples: Iterable[Example]) -> Iterator[int]:
    normal = Normalised()
    for example in examples:
        text = said(example.prompt, normal)
        yield int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big")
