"""MiniLM-L6 and its like: a BERT encoder as the proxy model's backbone.

Owns the encoder (Devlin et al. 2019, post-norm) in plain operators, and how the weights of
a published folder are read into it. Called by `backbone`; `fused` exports it.
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
class BertShape:
    """What the encoder is made of."""

    vocabulary: int
    positions: int
    width: int
    layers: int
    heads: int
    hidden: int
    epsilon: float = 1e-12


def bert_shape(config: Mapping[str, Any]) -> BertShape:
    """The shape that a folder's config.json states."""
    return BertShape(
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        epsilon=config["layer_norm_eps"],
    )


class Layer(nn.Module):
    """One transformer layer, post-norm."""

    def __init__(self, shape: BertShape, dropout: float) -> None:
        super().__init__()
        self.heads = shape.heads
        self.dropout = dropout
        self.query = AdaptedLinear(shape.width, shape.width)
        self.key = AdaptedLinear(shape.width, shape.width)
        self.value = AdaptedLinear(shape.width, shape.width)
        self.attended = AdaptedLinear(shape.width, shape.width)
        self.attended_norm = nn.LayerNorm(shape.width, shape.epsilon)
        self.up = AdaptedLinear(shape.width, shape.hidden)
        self.down = AdaptedLinear(shape.hidden, shape.width)
        self.norm = nn.LayerNorm(shape.width, shape.epsilon)

    def forward(self, states: Tensor, mask: Tensor) -> Tensor:
        """(batch, length, width) and an additive mask (batch, 1, 1, length)."""
        mixed = self._drop(self.attended(self._attend(states, mask)))
        states = self.attended_norm(states + mixed)
        fed = self._drop(self.down(functional.gelu(self.up(states))))
        normed: Tensor = self.norm(states + fed)
        return normed

    def _attend(self, states: Tensor, mask: Tensor) -> Tensor:
        query, key, value = (
            each(states).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for each in (self.query, self.key, self.value)
        )
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return mixed.transpose(1, 2).flatten(2)

    def _drop(self, states: Tensor) -> Tensor:
        return functional.dropout(states, self.dropout, self.training)


class BertEncoder(Backbone):
    """Every token sees all others."""

    def __init__(self, shape: BertShape, dropout: float = 0.1) -> None:
        super().__init__(shape.vocabulary, shape.width)
        self.shape = shape
        self.dropout = dropout
        self.words = nn.Embedding(shape.vocabulary, shape.width)
        self.positions = nn.Embedding(shape.positions, shape.width)
        self.segment = nn.Parameter(torch.zeros(shape.width))
        self.norm = nn.LayerNorm(shape.width, shape.epsilon)
        self.layers = nn.ModuleList(Layer(shape, dropout) for _ in range(shape.layers))

    def forward(self, ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Ids and mask (1 real, 0 padding), (batch, length) int64, to (batch, length, width)."""
        places = torch.arange(ids.shape[1], device=ids.device)
        states: Tensor = self.norm(self.words(ids) + self.positions(places) + self.segment)
        states = functional.dropout(states, self.dropout, self.training)
        mask = (1.0 - attention_mask[:, None, None, :].to(states.dtype)) * -10000.0
        for layer in self.layers:
            states = layer(states, mask)
        return states

    def set_dropout(self, dropout: float) -> None:
        """The share that training drops of every layer's outputs."""
        self.dropout = dropout
        for layer in self.layers:
            layer.dropout = dropout  # type: ignore[assignment]


def load_bert(folder: Path, config: Mapping[str, Any]) -> BertEncoder:
    """The encoder with the weights of a BERT folder (safetensors)."""
    backbone = BertEncoder(bert_shape(config))
    stored = load_file(folder / "model.safetensors")
    renamed = {_ours(name): tensor for name, tensor in stored.items() if _ours(name)}
    renamed["segment"] = renamed["segment"][0]  # the proxy model reads one segment
    backbone.load_state_dict(renamed)
    return backbone


_RENAMED = (
    ("embeddings.word_embeddings.", "words."),
    ("embeddings.position_embeddings.", "positions."),
    ("embeddings.token_type_embeddings.weight", "segment"),
    ("embeddings.LayerNorm.", "norm."),
    ("encoder.layer.", "layers."),
    ("attention.self.", ""),
    ("attention.output.dense.", "attended."),
    ("attention.output.LayerNorm.", "attended_norm."),
    ("intermediate.dense.", "up."),
    ("output.dense.", "down."),
    ("output.LayerNorm.", "norm."),
)


def _ours(name: str) -> str:
    """Our name of a published BERT tensor; empty for what the encoder has no use for."""
    if name.startswith("pooler.") or name.endswith("position_ids"):
        return ""
    for theirs, ours in _RENAMED:
        name = name.replace(theirs, ours)
    return name
