"""Draws from filtered distributions on CPU: temperature, top-k, top-p, min-p.

A draw is a race (argmax of log p - log E, the Gumbel-max trick) between the tokens that
pass the filters. Unlike an inverse CDF it hardly ever changes with the last bits of the
logits, which differ from batch to batch: only if the two best are that close. Filters
keep the beginning of one order, by logit and among equals by token id, so they are
exact whatever the algorithm; `kernels.draws` does the same on CUDA. Sorting a whole
vocabulary is slow, and nearly always a short head of the order holds all that passes:
it is tried first. Source of top-p: Holtzman et al. 2020, section 3.1; of min-p: Nguyen
et al. 2024.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from engine_svc.random_stream import exponentials

HEADS: Final = (256, 4096)
"""Tokens of the order that are tried before all of it."""
CACHED_CELLS: Final = 1 << 17
"""Logits that race at once, so that what they need in between stays in the processor's cache."""


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
    vocabulary = logits.shape[-1]
    tokens = torch.zeros(logits.shape[:1], dtype=torch.int64)
    free = filters.keep_all()
    everything = torch.arange(vocabulary)
    at_once = max(1, CACHED_CELLS // vocabulary)
    for rows in torch.split(free.nonzero().squeeze(1), at_once):
        tokens[rows] = _race(logits[rows], everything, filters.rows(rows), row_keys[rows])
    left = (~free).nonzero().squeeze(1)
    for width in (*(w for w in HEADS if w < vocabulary), vocabulary):
        if not len(left):
            break
        tokens[left], known = _draw_from_head(
            logits[left], width, filters.rows(left), row_keys[left]
        )
        left = left[~known]
    return tokens


def _draw_from_head(
    logits: Tensor, width: int, filters: Filters, row_keys: Tensor
) -> tuple[Tensor, Tensor]:
    """Tokens drawn from the `width` most probable, and where all that passes was among them."""
    head, ids, known = passing(logits, width, filters)
    drawn = _race(head, ids, filters, row_keys)
    return ids.gather(1, drawn.unsqueeze(1)).squeeze(1), known


def passing(logits: Tensor, width: int, filters: Filters) -> tuple[Tensor, Tensor, Tensor]:
    """What passes the filters among the `width` most probable tokens of each row.

    Returns their logits [rows, width], -inf where excluded; their ids; and, bool [rows],
    where all that passes is among them.
    """
    head, ids = _head(logits, width)
    total = (logits / filters.temperature).logsumexp(-1, keepdim=True)
    kept = _kept((head / filters.temperature - total).exp(), filters)
    # Equals of the head's last token may lie outside, with smaller ids.
    least = head.masked_fill(~kept, torch.inf).amin(-1)
    known = (filters.top_k.squeeze(1) <= width) & (least > head[:, -1])
    return head.masked_fill(~kept, -torch.inf), ids, known | (width == logits.shape[-1])


def _head(logits: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """The beginning of the order, with its token ids: by logit, falling; equals by id, rising."""
    if width == logits.shape[-1]:
        whole, ids = logits.sort(dim=-1, descending=True, stable=True)
        return whole, ids
    by_id = logits.topk(width, sorted=False).indices.sort(-1).values
    head, order = logits.gather(1, by_id).sort(dim=-1, descending=True, stable=True)
    return head, by_id.gather(1, order)


def _kept(head: Tensor, filters: Filters) -> Tensor:
    """What passes, bool like `head`: probabilities that fall along each row."""
    width = head.shape[-1]
    cumulative = head.cumsum(-1)
    unlimited = filters.top_k == 0
    mass_of_k = cumulative.gather(1, (filters.top_k - 1).clamp(0, width - 1))
    mass = torch.where(unlimited, 1.0, mass_of_k)
    kept = (cumulative - head < filters.top_p * mass) | (filters.top_p >= 1)
    kept &= (torch.arange(width) < filters.top_k) | unlimited
    return kept & (head >= filters.min_p * head[:, :1])


def _race(logits: Tensor, token_ids: Tensor, filters: Filters, row_keys: Tensor) -> Tensor:
    """Column of the winner, int64 [rows]."""
    return (logits / filters.temperature - exponentials(row_keys, token_ids).log()).argmax(-1)
