"""Llama (Touvron et al. 2023), and all that carries its name: SmolLM2, TinyLlama, Llama 3."""

from __future__ import annotations

from typing import Any

from engine_svc.model.config import Traits
from engine_svc.model.families.family import Family


def _traits(config: Any) -> Traits:
    return Traits(
        qkv_bias=config.attention_bias, out_bias=config.attention_bias, mlp_bias=config.mlp_bias
    )


FAMILY = Family("llama", "LlamaForCausalLM", _traits, gguf_pairs_adjacent=True)
