"""What every backbone can do, and the low-rank adapters that all of them take.

Owns the adapters (LoRA, Hu et al. 2021, section 4): which layers get one, what is trained
beside them, and how they are merged into the weights before export. Knows no architecture:
`bert` and `decoder` are built from this. Called by `model`.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class AdaptedLinear(nn.Linear):
    """A linear layer with an optional low-rank addition, W + B·A."""

    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(self, in_features: int, out_features: int, bias: bool = True) -> None:
        super().__init__(in_features, out_features, bias)
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


class Backbone(nn.Module):
    """Token ids and mask, (batch, length) int64, padding last, to (batch, length, width)."""

    layers: nn.ModuleList

    def __init__(self, vocabulary: int, width: int) -> None:
        super().__init__()
        self.vocabulary = vocabulary
        self.width = width

    def set_dropout(self, dropout: float) -> None:
        """The share that training drops of every layer's outputs."""
        raise NotImplementedError

    def adapt(self, rank: int) -> None:
        """Freezes the weights but the layers' norms; every linear layer gets an adapter."""
        self.requires_grad_(False)
        for module in self.modules():
            if isinstance(module, AdaptedLinear):
                module.adapt(rank)
        for module in self.layers.modules():
            if isinstance(module, nn.LayerNorm | nn.RMSNorm):
                module.requires_grad_(True)

    def merge(self) -> None:
        """Folds all adapters into the weights."""
        for module in self.modules():
            if isinstance(module, AdaptedLinear):
                module.merge()
