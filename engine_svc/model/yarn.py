"""YaRN: rotary frequencies stretched pair by pair for a longer context.

Source: Peng et al. 2023, section 3.2, with the defaults of transformers. Called by
`rope` for the frequencies and by `huggingface` for the magnitude.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from engine_svc.model.config import Rope


def yarn_magnitude(parameters: Mapping[str, Any]) -> float:
    """What cosines and sines are multiplied by, from a configuration's `rope_parameters`."""
    given = parameters.get("attention_factor")
    if given is not None:
        return float(given)
    factor = parameters["factor"]
    over, under = parameters.get("mscale"), parameters.get("mscale_all_dim")
    if over and under:
        return _magnitude(factor, over) / _magnitude(factor, under)
    return _magnitude(factor, 1.0)


def _magnitude(factor: float, weight: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * weight * math.log(factor) + 1.0


def yarn_frequencies(frequencies: Tensor, rope: Rope) -> Tensor:
    """Stretched frequencies from the plain ones, float32 [head_size / 2]."""
    pairs = len(frequencies)
    low, high = _border(rope.fast_turns, rope, pairs), _border(rope.slow_turns, rope, pairs)
    if rope.whole_pairs:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, 2 * pairs - 1)
    span = high - low or 0.001
    stretched = ((torch.arange(pairs).float() - low) / span).clamp(0.0, 1.0)
    return frequencies / rope.factor * stretched + frequencies * (1 - stretched)


def _border(turns: float, rope: Rope, pairs: int) -> float:
    """The pair, counted in fractions, that turns so often over the original context."""
    wavelengths = rope.original_context_tokens / (turns * 2 * math.pi)
    return pairs * math.log(wavelengths) / math.log(rope.theta)
