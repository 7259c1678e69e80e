"""Chooses the next token of every sequence of a step.

Vectorised over the batch: work that no sequence asks for is skipped, an all-greedy
step is one argmax. A row whose logits hold NaN or infinity gets no token and spoils
no other. Called by `runner`; the rules before the choice are in `logit_rules`, the
random numbers in `random_stream`.
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from collections.abc import Set
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine_svc.logit_rules import adjusted
from engine_svc.messages import TokenLogprobs
from engine_svc.nucleus import Filters, draw
from engine_svc.random_stream import keys
from engine_svc.sequence import Sequence

NUMERIC_FAULT = -1


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one sequence got."""

    token_id: int
    """NUMERIC_FAULT where its logits were not finite."""
    logprobs: TokenLogprobs | None = None


class Sampler:
    """Samples with each sequence's own parameters."""

    def __init__(self, eos_token_ids: Set[int]) -> None:
        self._eos_token_ids = eos_token_ids

    def sample(self, logits: Tensor, sequences: Items[Sequence]) -> list[Sampled]:
        """One result a row of `logits` [rows, vocabulary], any float type."""
        logits = logits.float()
        # A sum is finite only where every summand is, and costs a tenth of isfinite.
        finite = logits.sum(-1).isfinite()
        chosen = self._choose(adjusted(logits, sequences, self._eos_token_ids), sequences)
        tokens = torch.where(finite, chosen, NUMERIC_FAULT)
        logprobs = _logprobs(logits, tokens, sequences)
        return [Sampled(token, logprobs.get(row)) for row, token in enumerate(tokens.tolist())]

    def _choose(self, logits: Tensor, sequences: Items[Sequence]) -> Tensor:
        rows = [row for row, s in enumerate(sequences) if not s.params.greedy]
        if not rows:
            return logits.argmax(-1)
        drawing = [sequences[row] for row in rows]
        if len(rows) == len(sequences):
            return draw(logits, *_draw_arguments(drawing, logits.device))
        index = torch.tensor(rows, device=logits.device)
        drawn = draw(logits[index], *_draw_arguments(drawing, logits.device))
        return logits.argmax(-1).index_copy_(0, index, drawn)


def _draw_arguments(sequences: Items[Sequence], device: torch.device) -> tuple[Filters, Tensor]:
    seeds = np.array([s.params.seed for s in sequences], dtype=np.uint64)
    positions = np.array([s.length for s in sequences], dtype=np.uint64)
    columns = np.array(
        [(s.params.temperature, s.params.top_p, s.params.min_p, s.params.top_k) for s in sequences],
        dtype=np.float32,
    )
    numbers = torch.from_numpy(columns).to(device)
    temperature, top_p, min_p, top_k = numbers.T.unsqueeze(-1)
    row_keys = torch.from_numpy(keys(seeds, positions)).to(device).unsqueeze(1)
    return Filters(temperature, top_p, min_p, top_k.long()), row_keys


def _logprobs(
    logits: Tensor, tokens: Tensor, sequences: Items[Sequence]
) -> dict[int, TokenLogprobs]:
    """Of the rows that ask for them, from the logits as the model gave them."""
    counts = {
        row: s.params.logprobs for row, s in enumerate(sequences) if s.params.logprobs is not None
    }
    if not counts:
        return {}
    index = torch.tensor(list(counts), device=logits.device)
    table = logits[index].log_softmax(-1)
    own = table.gather(1, tokens[index].clamp(min=0)[:, None]).squeeze(1).tolist()
    top = table.topk(max(counts.values()), dim=-1)
    listed = zip(counts.items(), own, top.indices.tolist(), top.values.tolist(), strict=True)
    return {
        row: TokenLogprobs(logprob, tuple(ids[:count]), tuple(values[:count]))
        for (row, count), logprob, ids, values in listed
    }
