"""Reads a model's shape off its transformers configuration.

It knows no weights. Called by `loading`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from engine_svc.model import families
from engine_svc.model.config import ModelConfig, Rope, UnsupportedModel
from engine_svc.model.yarn import yarn_magnitude


def from_huggingface(config: Any) -> ModelConfig:
    """The shape that a transformers configuration describes. Raises UnsupportedModel."""
    family = families.of_architectures(list(config.architectures or ()))
    if config.hidden_act != "silu":
        raise UnsupportedModel(f"activation {config.hidden_act} is not supported; silu is")
    heads = config.num_attention_heads
    return ModelConfig(
        family=family.name,
        vocabulary_size=config.vocab_size,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        heads=heads,
        kv_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // heads,
        norm_eps=config.rms_norm_eps,
        context_tokens=config.max_position_embeddings,
        tied_embeddings=config.tie_word_embeddings,
        rope=_rope(config.rope_parameters, config.max_position_embeddings),
        traits=family.traits(config),
    )


def _rope(parameters: Mapping[str, Any], context_tokens: int) -> Rope:
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3", "yarn"):
        names = "default, linear, llama3, yarn"
        raise UnsupportedModel(f"rope type {kind} is not supported; {names} are")
    theta, factor = parameters["rope_theta"], parameters.get("factor", 1.0)
    original = parameters.get("original_max_position_embeddings") or 0
    if kind == "yarn":
        return Rope(
            theta=theta,
            kind=kind,
            factor=factor,
            original_context_tokens=original or context_tokens,
            fast_turns=parameters.get("beta_fast") or 32.0,
            slow_turns=parameters.get("beta_slow") or 1.0,
            whole_pairs=parameters.get("truncate", True),
            magnitude=yarn_magnitude(parameters),
        )
    return Rope(
        theta=theta,
        kind=kind,
        factor=factor,
        low_frequency_factor=parameters.get("low_freq_factor", 1.0),
        high_frequency_factor=parameters.get("high_freq_factor", 1.0),
        original_context_tokens=original,
    )
