"""The Llama family: RMSNorm, rotary grouped-query attention, SwiGLU.

A forward pass over our own KV cache; it knows no sequence and no request. Source:
LLaMA (Touvron et al. 2023), section 2.2; grouped queries: Ainslie et al. 2023. The
names of the weights are those of transformers' `LlamaForCausalLM`. Called by `runner`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional

from engine_svc.model.config import ModelConfig
from engine_svc.model.linear import Linear, linear
from engine_svc.model.rope import RotaryTable, rotate

Weights = Mapping[str, Tensor]


class Attention(Protocol):
    """How the tokens of one forward pass attend; see `engine_svc.attention`."""

    def __call__(self, layer: int, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Stores k, v and attends: [tokens, heads, head_size] → the same."""


@dataclass(frozen=True, slots=True)
class ForwardBatch:
    """The tokens of one forward pass, sequences one after another without padding."""

    token_ids: Tensor
    """int64 [tokens]."""
    positions: Tensor
    """int64 [tokens], from 0 in each sequence."""
    attention: Attention
    logits_at: Tensor | None = None
    """int64 [rows]: the tokens whose logits are wanted; None: all."""


@dataclass(frozen=True, slots=True)
class _Layer:
    attention_norm: Tensor
    qkv: Linear
    attention_out: Linear
    mlp_norm: Tensor
    gate_up: Linear
    down: Linear


class Llama:
    """A Llama model whose weights are on one device."""

    def __init__(self, config: ModelConfig, weights: Weights, max_positions: int) -> None:
        self.config = config
        self._embedding = weights["model.embed_tokens.weight"]
        self.device, self.dtype = self._embedding.device, self._embedding.dtype
        head = "model.embed_tokens" if config.tied_embeddings else "lm_head"
        self._head = linear(weights[f"{head}.weight"])
        self._norm = weights["model.norm.weight"]
        self._layers = [_layer(weights, f"model.layers.{i}.") for i in range(config.layers)]
        self._rotary = RotaryTable(
            config.rope, config.head_size, max_positions, self.device, self.dtype
        )

    def forward(self, batch: ForwardBatch) -> Tensor:
        """Logits of the next token, float [rows, vocabulary]."""
        hidden = functional.embedding(batch.token_ids, self._embedding)
        cos, sin = self._rotary.at(batch.positions)
        for index, layer in enumerate(self._layers):
            attended = self._attend(index, layer, hidden, cos, sin, batch.attention)
            hidden = hidden + attended
            hidden = hidden + self._mlp(layer, hidden)
        if batch.logits_at is not None:
            hidden = hidden[batch.logits_at]
        return self._head(self._normed(hidden, self._norm))

    def _normed(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return functional.rms_norm(hidden, (self.config.hidden_size,), weight, self.config.norm_eps)

    def _attend(
        self,
        index: int,
        layer: _Layer,
        hidden: Tensor,
        cos: Tensor,
        sin: Tensor,
        attention: Attention,
    ) -> Tensor:
        heads, kv_heads = self.config.heads, self.config.kv_heads
        projected = layer.qkv(self._normed(hidden, layer.attention_norm))
        # Heads of one token: q … q k … k v … v; queries and keys turn together.
        projected = projected.view(-1, heads + 2 * kv_heads, self.config.head_size)
        turned = rotate(projected[:, : heads + kv_heads], cos, sin)
        q, k = turned[:, :heads], turned[:, heads:]
        attended = attention(index, q, k, projected[:, heads + kv_heads :])
        return layer.attention_out(attended.flatten(1))

    def _mlp(self, layer: _Layer, hidden: Tensor) -> Tensor:
        gate, up = layer.gate_up(self._normed(hidden, layer.mlp_norm)).chunk(2, -1)
        return layer.down(functional.silu(gate) * up)


def _layer(weights: Weights, prefix: str) -> _Layer:
    def joined(*names: str) -> Linear:
        matrices = [weights[f"{prefix}{name}.weight"] for name in names]
        biases = [weights[key] for name in names if (key := f"{prefix}{name}.bias") in weights]
        bias = torch.cat(biases) if biases else None
        return linear(torch.cat(matrices) if len(matrices) > 1 else matrices[0], bias)

    return _Layer(
        attention_norm=weights[f"{prefix}input_layernorm.weight"],
        qkv=joined("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
        attention_out=joined("self_attn.o_proj"),
        mlp_norm=weights[f"{prefix}post_attention_layernorm.weight"],
        gate_up=joined("mlp.gate_proj", "mlp.up_proj"),
        down=joined("mlp.down_proj"),
    )
