"""What a model's shape is, as one plain value.

Read from a Hugging Face configuration or from a GGUF file's metadata by `loading`;
the model, the KV cache and the service only read it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

LLAMA: Final = "llama"
SUPPORTED: Final = {"LlamaForCausalLM": LLAMA}
"""Hugging Face architecture → family."""


class UnsupportedModel(ValueError):
    """The model needs something that the engine has not; one line says what."""


@dataclass(frozen=True, slots=True)
class Rope:
    """Rotary position embedding (RoFormer, section 3.2) and its scaling."""

    theta: float
    kind: str = "default"
    """`default`, `linear` or `llama3`."""
    factor: float = 1.0
    low_frequency_factor: float = 1.0
    high_frequency_factor: float = 1.0
    original_context_tokens: int = 0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """The shape of a decoder-only transformer."""

    family: str
    vocabulary_size: int
    layers: int
    hidden_size: int
    intermediate_size: int
    heads: int
    kv_heads: int
    head_size: int
    norm_eps: float
    context_tokens: int
    tied_embeddings: bool
    rope: Rope


def from_huggingface(config: Any) -> ModelConfig:
    """The shape that a transformers configuration describes. Raises UnsupportedModel."""
    names = list(config.architectures or ())
    family = next((SUPPORTED[name] for name in names if name in SUPPORTED), None)
    if family is None:
        raise unsupported(", ".join(names) or config.model_type)
    if config.hidden_act != "silu":
        raise UnsupportedModel(f"activation {config.hidden_act} is not supported; silu is")
    return ModelConfig(
        family=family,
        vocabulary_size=config.vocab_size,
        layers=config.num_hidden_layers,
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        heads=config.num_attention_heads,
        kv_heads=config.num_key_value_heads,
        head_size=config.head_dim,
        norm_eps=config.rms_norm_eps,
        context_tokens=config.max_position_embeddings,
        tied_embeddings=config.tie_word_embeddings,
        rope=_rope(config.rope_parameters),
    )


def unsupported(what: str) -> UnsupportedModel:
    """The error for an architecture of another family."""
    return UnsupportedModel(
        f"architecture {what} is not supported; supported: {', '.join(SUPPORTED)}"
    )


def _rope(parameters: Mapping[str, Any]) -> Rope:
    kind = parameters.get("rope_type", "default")
    if kind not in ("default", "linear", "llama3"):
        raise UnsupportedModel(f"rope type {kind} is not supported; default, linear, llama3 are")
    return Rope(
        theta=parameters["rope_theta"],
        kind=kind,
        factor=parameters.get("factor", 1.0),
        low_frequency_factor=parameters.get("low_freq_factor", 1.0),
        high_frequency_factor=parameters.get("high_freq_factor", 1.0),
        original_context_tokens=parameters.get("original_max_position_embeddings", 0),
    )
