"""Qwen3 (Yang et al. 2025): every query and key head is normed before its rotation."""

from __future__ import annotations

from typing import Any

from engine_svc.model.config import Traits
from engine_svc.model.families.family import Family, sliding_windows


def _traits(config: Any) -> Traits:
    return Traits(
        qkv_bias=config.attention_bias,
        out_bias=config.attention_bias,
        qk_norm=True,
        windows=sliding_windows(config),
    )


FAMILY = Family("qwen3", "Qwen3ForCausalLM", _traits)
