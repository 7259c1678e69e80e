"""Qwen2 and Qwen2.5 (Yang et al. 2024): queries, keys and values have a bias."""

from __future__ import annotations

from typing import Any

from engine_svc.model.config import Traits
from engine_svc.model.families.family import Family, sliding_windows


def _traits(config: Any) -> Traits:
    return Traits(qkv_bias=True, windows=sliding_windows(config))


FAMILY = Family("qwen2", "Qwen2ForCausalLM", _traits)
