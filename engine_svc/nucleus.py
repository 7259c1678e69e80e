"""Draws from filtered distributions: temperature, top-k, top-p, min-p.

A draw is an exponential race (argmax of p / E, the Gumbel-max trick) between the
tokens that pass the filters. Unlike an inverse CDF it hardly ever changes with the last
bits of the logits, which differ from batch to batch: only if the two best are that
close. Sorting a whole vocabulary is slow on CPU, and nearly always a short head of the
order holds all that passes: it is tried first. On CUDA one sort is cheaper than asking.
Source of top-p: Holtzman et al. 2020, section 3.1; of min-p: Nguyen et al. 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from engine_svc.random_stream import exponentials

HEADS: Final = (256, 4096)
"""Tokens of the order that are tried before all of it."""


@dataclass(frozen=True, slots=True)
class Filters:
    """One row each, all [rows, 1]."""

    temperature: Tensor
    """float32, above 0."""
    top_p: Tensor
    """float32 in (0, 1]: share of the mass left by top_k that is kept."""
    min_p: Tensor
    """float32 in [0, 1]."""
    top_k: Tensor
    """int64; 0 keeps all."""

    def rows(self, index: Tensor) -> Filters:
        """The filters of some rows."""
        return Filters(
            self.temperature[index], self.top_p[index], self.min_p[index], self.top_k[index]
        )

    def keep_all(self) -> Tensor:
        """Rows that filter nothing, bool [rows]."""
        return ((self.top_p >= 1) & (self.min_p <= 0) & (self.top_k == 0)).squeeze(1)


def draw(logits: Tensor, filters: Filters, row_keys: Tensor) -> Tensor:
    """Token ids int64 [rows] for logits [rows, vocabulary] and `random_stream.keys` [rows, 1]."""
    probabilities = (logits / filters.temperature).softmax(-1)
    vocabulary = logits.shape[-1]
    if logits.device.type != "cpu":
        return _draw_from_head(probabilities, vocabulary, filters, row_keys)[0]
    all_ids = torch.arange(vocabulary)
    tokens = torch.full(logits.shape[:1], -1, dtype=torch.int64)
    free = filters.keep_all()
    if free.any():
        tokens[free] = _race(probabilities[free], all_ids, row_keys[free])
    left = (~free).nonzero().squeeze(1)
    for width in (*(w for w in HEADS if w < vocabulary), vocabulary):
        if not len(left):
            break
        tokens[left], known = _draw_from_head(
            probabilities[left], width, filters.rows(left), row_keys[left]
        )
        left = left[~known]
    return tokens


def _draw_from_head(
    probabilities: Tensor, width: int, filters: Filters, row_keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens drawn from the `width` most probable, and where all that passes was among them."""
    whole = width == probabilities.shape[-1]
    head, ids = probabilities.sort(-1, descending=True) if whole else probabilities.topk(width)
    kept = _kept(head, filters)
    drawn = _race(head.masked_fill(~kept, 0.0), ids, row_keys)
    known = (filters.top_k.squeeze(1) <= width) & (kept.sum(-1) < width)
    return ids.gather(1, drawn.unsqueeze(1)).squeeze(1), known | whole


def _kept(head: Tensor, filters: Filters) -> Tensor:
    """What passes, bool like `head`, which falls along each row."""
    width = head.shape[-1]
    cumulative = head.cumsum(-1)
    unlimited = filters.top_k == 0
    mass_of_k = cumulative.gather(1, (filters.top_k - 1).clamp(0, width - 1))
    mass = torch.where(unlimited, 1.0, mass_of_k)
    kept = (cumulative - head < filters.top_p * mass) | (filters.top_p >= 1)
    kept &= (torch.arange(width, device=head.device) < filters.top_k) | unlimited
    return kept & (head >= filters.min_p * head[:, :1])


def _race(weights: Tensor, token_ids: Tensor, row_keys: Tensor) -> Tensor:
    """Column of the winner, int64 [rows]."""
    return (weights / exponentials(row_keys, token_ids)).argmax(-1)
