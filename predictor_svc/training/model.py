"""The proxy model: an adapted backbone, mean pooling, and a head over length bins.

Owns its shape and what of it is trained. Knows nothing of data or of how it is stored.
Called by `train`, `weights` and `export`.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from predictor_svc.training.backbone import Backbone


@dataclass(frozen=True, slots=True)
class ProxyShape:
    """What is added to the backbone."""

    bin_count: int
    layers: int
    """Backbone layers used, from the first."""
    adapter_rank: int
    hidden: int
    """Width of the head's hidden layer."""


class ProxyModel(nn.Module):
    """Token ids to logits over length bins."""

    def __init__(self, backbone: Backbone, shape: ProxyShape, dropout: float = 0.1) -> None:
        """Takes the backbone over: keeps its first layers and adds adapters."""
        super().__init__()
        self.shape = shape
        self.backbone = backbone
        backbone.layers = backbone.layers[: shape.layers]
        backbone.adapt(shape.adapter_rank)
        for module in backbone.layers.modules():
            if isinstance(module, nn.LayerNorm):
                module.requires_grad_(True)
        width = backbone.shape.width
        self.head = nn.Sequential(
            nn.LayerNorm(width),
            nn.Dropout(dropout),
            nn.Linear(width, shape.hidden),
            nn.GELU(),
            nn.Dropout(dropout),
            nn.Linear(shape.hidden, shape.bin_count),
        )

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, length) int64 each, mask 1 on real tokens, to (batch, bin_count) logits."""
        states = self.backbone(input_ids, attention_mask)
        weights = attention_mask.unsqueeze(-1).to(states.dtype)
        pooled = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        logits: Tensor = self.head(pooled)
        return logits

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, and so what is shipped."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}

    def metadata(self) -> dict[str, str]:
        """The shape as safetensors metadata."""
        return {name: str(value) for name, value in asdict(self.shape).items()}


def pad(rows: list[list[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Ids of several prompts to (batch, length) ids and mask, int64, padded with 0."""
    longest = length or max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask
