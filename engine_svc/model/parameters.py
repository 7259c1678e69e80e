"""A model's weights on its device, in the layout that the forward pass wants.

Matrices that are applied together lie together, and what comes from a file is copied
straight to its part of them, so that there is never a second copy of the whole. The
names are those of transformers. Called by `loading` and `shapes`; read by `decoder`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_svc.model.config import ModelConfig, UnsupportedModel

# Of a model with tied embeddings, and of old files that keep what is computed here.
UNUSED = ("lm_head.weight", "rotary_emb.inv_freq", "rope_freqs.weight")


@dataclass(frozen=True, slots=True)
class LayerParameters:
    """One layer's; matrices are [out, in], biases None where the family has none."""

    attention_norm: Tensor
    qkv: Tensor
    qkv_bias: Tensor | None
    query_norm: Tensor | None
    key_norm: Tensor | None
    out: Tensor
    out_bias: Tensor | None
    mlp_norm: Tensor
    gate_up: Tensor
    gate_up_bias: Tensor | None
    down: Tensor
    down_bias: Tensor | None


@dataclass(frozen=True, slots=True)
class Parameters:
    """All of a model's."""

    config: ModelConfig
    embedding: Tensor
    layers: tuple[LayerParameters, ...]
    norm: Tensor
    head: Tensor
    """The embedding itself where they are tied."""

    def named(self) -> dict[str, Tensor]:
        """The part that each name of a file fills."""
        found = {"model.embed_tokens.weight": self.embedding, "model.norm.weight": self.norm}
        if not self.config.tied_embeddings:
            found["lm_head.weight"] = self.head
        for index, layer in enumerate(self.layers):
            prefix = f"model.layers.{index}."
            found |= {prefix + name: part for name, part in _parts(layer, self.config)}
        return found

    @property
    def count(self) -> int:
        """How many numbers the model has."""
        return sum(part.numel() for part in self.named().values())


def allocate(config: ModelConfig, device: torch.device, dtype: torch.dtype) -> Parameters:
    """Parameters of a model's shape, not yet filled."""

    def made(*sizes: int) -> Tensor:
        return torch.empty(sizes, device=device, dtype=dtype)

    def if_any(wanted: bool, *sizes: int) -> Tensor | None:
        return made(*sizes) if wanted else None

    traits, hidden, inner = config.traits, config.hidden_size, config.intermediate_size

    def layer() -> LayerParameters:
        return LayerParameters(
            attention_norm=made(hidden),
            qkv=made(config.qkv_size, hidden),
            qkv_bias=if_any(traits.qkv_bias, config.qkv_size),
            query_norm=if_any(traits.qk_norm, config.head_size),
            key_norm=if_any(traits.qk_norm, config.head_size),
            out=made(hidden, config.heads * config.head_size),
            out_bias=if_any(traits.out_bias, hidden),
            mlp_norm=made(hidden),
            gate_up=made(2 * inner, hidden),
            gate_up_bias=if_any(traits.mlp_bias, 2 * inner),
            down=made(hidden, inner),
            down_bias=if_any(traits.mlp_bias, hidden),
        )

    embedding = made(config.vocabulary_size, hidden)
    head = embedding if config.tied_embeddings else made(config.vocabulary_size, hidden)
    return Parameters(
        config, embedding, tuple(layer() for _ in range(config.layers)), made(hidden), head
    )


def fill(parameters: Parameters, weights: Iterable[tuple[str, Tensor]]) -> None:
    """Copies every weight to its part, whatever its dtype and device.

    Raises ValueError where one is missing or its shape differs, and UnsupportedModel where
    there are weights that this model has no use for.
    """
    parts = parameters.named()
    missing = dict.fromkeys(parts)
    for name, weight in weights:
        part = parts.get(name)
        if part is None:
            if name.endswith(UNUSED):
                continue
            raise UnsupportedModel(f"weights {name} are not part of this family")
        if part.shape != weight.shape:
            raise ValueError(f"{name} is {list(weight.shape)} and should be {list(part.shape)}")
        part.copy_(weight)
        missing.pop(name, None)
    if missing:
        raise ValueError(f"no weights named {next(iter(missing))!r}")


def _parts(layer: LayerParameters, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
    queries, keys = config.heads * config.head_size, config.kv_heads * config.head_size
    inner = config.intermediate_size
    attention = {"self_attn.q_proj": queries, "self_attn.k_proj": keys, "self_attn.v_proj": keys}
    mlp = {"mlp.gate_proj": inner, "mlp.up_proj": inner}
    joined = (
        (layer.qkv, attention, "weight"),
        (layer.qkv_bias, attention, "bias"),
        (layer.gate_up, mlp, "weight"),
        (layer.gate_up_bias, mlp, "bias"),
    )
    for whole, sizes, kind in joined:
        if whole is not None:
            parts = whole.split_with_sizes(list(sizes.values()))
            yield from ((f"{name}.{kind}", part) for name, part in zip(sizes, parts, strict=True))
    single = {
        "input_layernorm.weight": layer.attention_norm,
        "self_attn.q_norm.weight": layer.query_norm,
        "self_attn.k_norm.weight": layer.key_norm,
        "self_attn.o_proj.weight": layer.out,
        "self_attn.o_proj.bias": layer.out_bias,
        "post_attention_layernorm.weight": layer.mlp_norm,
        "mlp.down_proj.weight": layer.down,
        "mlp.down_proj.bias": layer.down_bias,
    }
    yield from ((name, part) for name, part in single.items() if part is not None)
