"""SmolLM2 and its like: a small LLM of the Llama family as the proxy model's backbone.

Owns the decoder without its output layer (LLaMA, Touvron et al. 2023, section 2.2; grouped
queries, Ainslie et al. 2023; rotary positions, Su et al. 2021), and how the weights of a
folder are read into it. A model that was itself taught to answer says more about how long
an answer will be than an encoder of sentences. Called by `backbone`; `fused_decoder`
exports it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

from predictor_svc.training.adapted import AdaptedLinear, Backbone


@dataclass(frozen=True, slots=True)
class DecoderShape:
    """What the decoder is made of."""

    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    """Of keys and values: `heads` / `kv_heads` queries share one."""
    hidden: int
    epsilon: float
    rope_theta: float

    @property
    def head_size(self) -> int:
        """Numbers a head."""
        return self.width // self.heads


def decoder_shape(config: Mapping[str, Any]) -> DecoderShape:
    """The shape that a folder's config.json states.

    Raises ValueError where it states something that `Decoder` does not compute.
    """
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    if rope.get("rope_type", rope.get("type", "default")) != "default":
        raise ValueError("rotary positions that are scaled are not supported")
    shape = DecoderShape(
        vocabulary=config["vocab_size"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        kv_heads=config.get("num_key_value_heads") or config["num_attention_heads"],
        hidden=config["intermediate_size"],
        epsilon=config["rms_norm_eps"],
        rope_theta=rope.get("rope_theta", config.get("rope_theta", 10000.0)),
    )
    has_bias = config.get("attention_bias") or config.get("mlp_bias")
    if has_bias or config.get("head_dim", shape.head_size) not in (None, shape.head_size):
        raise ValueError("biases, or heads of another width than the states', are not supported")
    return shape


def rotary_angles(shape: DecoderShape, positions: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines of each position's turn, float32 (positions, head size / 2)."""
    pairs = torch.arange(0, shape.head_size, 2, device=positions.device).float()
    frequencies = 1.0 / shape.rope_theta ** (pairs / shape.head_size)
    angles = torch.outer(positions.float(), frequencies)
    return angles.cos(), angles.sin()


class DecoderLayer(nn.Module):
    """One transformer layer, pre-norm."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__()
        self.shape = shape
        keys_width = shape.kv_heads * shape.head_size
        self.attention_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.query = AdaptedLinear(shape.width, shape.width, bias=False)
        self.key = AdaptedLinear(shape.width, keys_width, bias=False)
        self.value = AdaptedLinear(shape.width, keys_width, bias=False)
        self.attended = AdaptedLinear(shape.width, shape.width, bias=False)
        self.feed_norm = nn.RMSNorm(shape.width, shape.epsilon)
        self.gate = AdaptedLinear(shape.width, shape.hidden, bias=False)
        self.up = AdaptedLinear(shape.width, shape.hidden, bias=False)
        self.down = AdaptedLinear(shape.hidden, shape.width, bias=False)

    def forward(self, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        """(batch, length, width) and angles (length, head size / 2) to (batch, length, width)."""
        normed = self.attention_norm(states)
        states = states + self.attended(self._attend(normed, cosines, sines))
        normed = self.feed_norm(states)
        fed: Tensor = self.down(functional.silu(self.gate(normed)) * self.up(normed))
        return states + fed

    def _attend(self, states: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
        query, key, value = (
            each(states).unflatten(-1, (-1, self.shape.head_size)).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        shared = self.shape.heads // self.shape.kv_heads
        # Padding comes last, where causal attention never looks: no mask, which would keep
        # the fast kernels away. Keys repeated, because not every kernel shares them itself.
        mixed = functional.scaled_dot_product_attention(
            _turn(query, cosines, sines),
            _turn(key, cosines, sines).repeat_interleave(shared, dim=1),
            value.repeat_interleave(shared, dim=1),
            is_causal=True,
        )
        return mixed.transpose(1, 2).flatten(2)


class Decoder(Backbone):
    """Every token sees those before it: the last one has seen all."""

    def __init__(self, shape: DecoderShape) -> None:
        super().__init__(shape.vocabulary, shape.width)
        self.shape = shape
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.layers = nn.ModuleList(DecoderLayer(shape) for _ in range(shape.layers))
        self.norm = nn.RMSNorm(shape.width, shape.epsilon)

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:  # noqa: ARG002
        """Ids (batch, length) int64, padding last, to (batch, length, width); arbitrary on padding.

        The mask is every backbone's argument; causal attention has no use for it.
        """
        states = self.words(ids)
        angles = rotary_angles(self.shape, torch.arange(ids.shape[1], device=ids.device))
        for layer in self.layers:
            states = layer(states, *angles)
        normed: Tensor = self.norm(states)
        return normed

    def set_dropout(self, dropout: float) -> None:
        """Nothing: models of this family are made without dropout; the head has all there is."""


def load_decoder(folder: Path, config: Mapping[str, Any]) -> Decoder:
    """The decoder with the weights of a Llama folder (safetensors), float32."""
    backbone = Decoder(decoder_shape(config))
    stored = {
        ours: tensor.float()
        for path in sorted(folder.glob("*.safetensors"))
        for name, tensor in load_file(path).items()
        if (ours := _ours(name))
    }
    backbone.load_state_dict(stored)
    return backbone


def _turn(heads: Tensor, cosines: Tensor, sines: Tensor) -> Tensor:
    """Rotates (…, length, head size): the first half of a head's numbers against the second."""
    first, second = heads.chunk(2, dim=-1)
    return torch.cat((first * cosines - second * sines, second * cosines + first * sines), dim=-1)


_RENAMED = (
    ("model.", ""),
    ("embed_tokens.", "words."),
    ("input_layernorm.", "attention_norm."),
    ("post_attention_layernorm.", "feed_norm."),
    ("self_attn.q_proj.", "query."),
    ("self_attn.k_proj.", "key."),
    ("self_attn.v_proj.", "value."),
    ("self_attn.o_proj.", "attended."),
    ("mlp.gate_proj.", "gate."),
    ("mlp.up_proj.", "up."),
    ("mlp.down_proj.", "down."),
)


def _ours(name: str) -> str:
    """Our name of a published Llama tensor; empty for what the decoder has no use for."""
    if name.startswith("lm_head.") or name.endswith("rotary_emb.inv_freq"):
        return ""
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name
