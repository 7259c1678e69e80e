"""What a family of models has to say of itself."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from engine_svc.model.config import Traits


@dataclass(frozen=True, slots=True)
class Family:
    """A line of models that share a structure."""

    name: str
    """Hugging Face's `model_type` and GGUF's `general.architecture`."""
    architecture: str
    """Hugging Face's class."""
    traits: Callable[[Any], Traits]
    """Reads the traits off a transformers configuration."""
    in_gguf: bool = True
    """Whether GGUF has an architecture of this name."""
    gguf_pairs_adjacent: bool = False
    """Whether GGUF keeps the two features of a rotated pair side by side."""


def sliding_windows(config: Any) -> tuple[int | None, ...]:
    """Windows by layer of a configuration with `layer_types` and `sliding_window`."""
    kinds = config.layer_types
    if config.sliding_window is None or "sliding_attention" not in kinds:
        return ()
    return tuple(config.sliding_window if kind == "sliding_attention" else None for kind in kinds)
