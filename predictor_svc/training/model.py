"""The proxy model: a backbone, adapted or fine-tuned whole, pooling, and a head.

Owns its shape and what of it is trained. Knows nothing of data, of tasks, or of how it
is stored. Called by `train`, `weights` and `export`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor, nn
from torch.nn import functional

from predictor_svc.training.adapted import Backbone

LLM_POSITION = 1
"""Where the encoder of BERT's form puts the LLM's token: after [CLS]."""
Pooling = Literal["mean", "cls", "last-mean"]


class ProxyShape(BaseModel):
    """What is made of the backbone. Stored with the weights."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    backbone: str = "minilm"
    """Name of a packaged backbone, or the folder of another."""
    outputs: int = Field(ge=1)
    layers: int = Field(default=6, ge=1)
    """Backbone layers used, from the first."""
    adapter_rank: int = Field(default=0, ge=0)
    """Rank of the adapters over a frozen backbone; 0 trains the backbone itself."""
    pooling: Pooling = "mean"
    """Mean over the tokens; the first token's state; or the last one's beside the mean."""
    head: Literal["normed", "ssjf"] = "normed"
    """LayerNorm, dropout and one hidden layer; or the two of the SSJF paper's code."""
    hidden: int = Field(default=256, ge=1)
    """Width of the head's hidden layers."""
    llm_tokens: tuple[int, ...] = ()
    """Token ids of the LLMs, and families of them, that the head tells apart; empty: none."""
    llm_position: int = LLM_POSITION
    """Where in a row the LLM's token stands."""
    llm_seen_as: int | None = None
    """What the backbone reads in the LLM's place: one token for all; none: the LLM's own. With
    one for all, a prompt's pooled state is the same for every LLM."""


class NormedHead(nn.Module):
    """One hidden layer between norm and outputs; every LLM has outputs of its own over it.

    An LLM's own weights are added to those that all share. With its name merely added to
    the hidden layer, tau-b over castillo's LLMs was 0.06 lower (docs/log.md).
    """

    def __init__(self, width: int, shape: ProxyShape, dropout: float) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.inner = nn.Linear(width, shape.hidden)
        self.outer = nn.Linear(shape.hidden, shape.outputs)
        self.llm_weight = _for_each_llm(shape, shape.hidden * shape.outputs)
        self.llm_bias = _for_each_llm(shape, shape.outputs)

    def forward(self, pooled: Tensor, llm: Tensor | None) -> Tensor:
        """(batch, width), and the LLMs' numbers (batch,) if they are told apart, to outputs."""
        inner = self.inner(self.dropout(self.norm(pooled)))
        inner = self.dropout(functional.gelu(inner))
        outputs: Tensor = self.outer(inner)
        if llm is None or self.llm_weight is None or self.llm_bias is None:
            return outputs
        weight = self.llm_weight(llm).unflatten(1, (inner.shape[1], outputs.shape[1]))
        own: Tensor = (inner.unsqueeze(1) @ weight).squeeze(1) + self.llm_bias(llm)
        return outputs + own


class SsjfHead(nn.Module):
    """The SSJF repository's head: two hidden layers with ReLU, the LLM joining the second."""

    def __init__(self, width: int, shape: ProxyShape) -> None:
        super().__init__()
        self.first = nn.Linear(width, shape.hidden)
        self.second = nn.Linear(shape.hidden, shape.hidden)
        self.outer = nn.Linear(shape.hidden, shape.outputs)
        self.llm = _for_each_llm(shape, shape.hidden)

    def forward(self, pooled: Tensor, llm: Tensor | None) -> Tensor:
        """(batch, width), and the LLMs' numbers (batch,) if they are told apart, to outputs."""
        second = self.second(torch.relu(self.first(pooled)))
        if llm is not None and self.llm is not None:
            # A one-hot name beside the inputs of a linear layer is a row added to its output.
            second = second + self.llm(llm)
        outputs: Tensor = self.outer(torch.relu(second))
        return outputs


def _for_each_llm(shape: ProxyShape, numbers: int) -> nn.Embedding | None:
    """So many trained numbers for each LLM, at first 0; number 0, the unknown, keeps 0.

    Families' numbers keep 0, too, until training has ended: see `set_means`.
    """
    if not shape.llm_tokens:
        return None
    table = nn.Embedding(len(shape.llm_tokens) + 1, numbers, padding_idx=0)
    nn.init.zeros_(table.weight)
    return table


class ProxyModel(nn.Module):
    """Token ids to the numbers that the task reads."""

    llm_index: Tensor

    def __init__(self, backbone: Backbone, shape: ProxyShape, dropout: float = 0.1) -> None:
        """Takes the backbone over: keeps its first layers and adds adapters, if any."""
        super().__init__()
        self.shape = shape
        self.backbone = backbone
        backbone.layers = backbone.layers[: shape.layers]
        backbone.set_dropout(dropout)
        if shape.adapter_rank:
            backbone.adapt(shape.adapter_rank)
        width = backbone.width * (2 if shape.pooling == "last-mean" else 1)
        self.head = (
            SsjfHead(width, shape) if shape.head == "ssjf" else NormedHead(width, shape, dropout)
        )
        if shape.llm_tokens:
            index = torch.zeros(backbone.vocabulary, dtype=torch.int64)
            index[list(shape.llm_tokens)] = torch.arange(1, len(shape.llm_tokens) + 1)
            self.register_buffer("llm_index", index, persistent=False)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """(batch, length) integers each, mask 1 on real tokens, to (batch, outputs)."""
        pooled = self.pooled(self.backbone(self.seen(input_ids), attention_mask), attention_mask)
        llm = input_ids[:, self.shape.llm_position] if self.shape.llm_tokens else None
        return self.outputs(pooled, llm)

    def seen(self, input_ids: Tensor) -> Tensor:
        """What the backbone reads of the ids."""
        if self.shape.llm_seen_as is None:
            return input_ids
        place = self.shape.llm_position
        # Of slices alone: nothing that an exported graph would have to compute on the CPU.
        seen_as = torch.full_like(input_ids[:, :1], self.shape.llm_seen_as)
        return torch.cat((input_ids[:, :place], seen_as, input_ids[:, place + 1 :]), dim=1)

    def pooled(self, states: Tensor, attention_mask: Tensor) -> Tensor:
        """The backbone's states, (batch, length, width), to one (batch, width or twice that)."""
        if self.shape.pooling == "cls":
            return states[:, 0]
        mask = attention_mask.to(states.dtype)
        weights = mask.unsqueeze(-1)
        mean = (states * weights).sum(dim=1) / weights.sum(dim=1).clamp(min=1.0)
        if self.shape.pooling == "mean":
            return mean
        # 1 on the last real token: where the mask ends.
        is_last = mask - functional.pad(mask[:, 1:], (0, 1))
        last = (states * is_last.unsqueeze(-1)).sum(dim=1)
        return torch.cat((last, mean), dim=1)

    def outputs(self, pooled: Tensor, llm_tokens: Tensor | None) -> Tensor:
        """(batch, width) and, where LLMs are told apart, their tokens (batch,), to outputs."""
        llm = None
        if llm_tokens is not None and self.shape.llm_tokens:
            llm = self.llm_index[llm_tokens.long()]
        outputs: Tensor = self.head(pooled, llm)
        return outputs

    @torch.no_grad()
    def set_means(self, rows: Mapping[int, Sequence[int]]) -> None:
        """Gives numbers of the head's tables the mean of other numbers' weights.

        With a normed head, whose own weights are added to the shared ones behind the last
        nonlinearity, the outputs are then the mean of those numbers' outputs.
        """
        for table in self.head.modules():
            if isinstance(table, nn.Embedding):
                for number, members in rows.items():
                    table.weight[number] = table.weight[list(members)].mean(dim=0)

    def trained_parameters(self) -> dict[str, nn.Parameter]:
        """What training changes, and so what is stored."""
        return {name: value for name, value in self.named_parameters() if value.requires_grad}


def pad(rows: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tensor, Tensor]:
    """Ids of several prompts to (batch, length) ids and mask, int64, padded with 0."""
    longest = length or max(len(row) for row in rows)
    ids = torch.zeros(len(rows), longest, dtype=torch.int64)
    mask = torch.zeros_like(ids)
    for index, row in enumerate(rows):
        ids[index, : len(row)] = torch.tensor(row)
        mask[index, : len(row)] = 1
    return ids, mask
