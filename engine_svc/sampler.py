"""Chooses the next token of every sequence of a step, on the device.

Parameters lie in a table by place, so a step's call names its rows' places and copies
nothing; results stay on the device, where the next step reads its input tokens. The
host is never waited for on CUDA. Work that the plan does not name is skipped: an
all-greedy step is one argmax. A row whose logits hold NaN or infinity gets no token and
spoils no other. Called by `runner`; the rules before the choice are in `logit_rules`,
the draws in `nucleus` (CPU) and `kernels.draws` (CUDA).
"""

from __future__ import annotations

from collections.abc import Sequence as Items
from collections.abc import Set
from dataclasses import dataclass

import torch
from torch import Tensor

from engine_svc.logit_rules import adjusted
from engine_svc.messages import TokenLogprobs
from engine_svc.nucleus import Filters, draw
from engine_svc.random_stream import keys
from engine_svc.results import NUMERIC_FAULT
from engine_svc.sampling_plan import Plan
from engine_svc.sampling_table import SamplingTable
from engine_svc.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Logprobs:
    """Natural log-probabilities of a step's rows, before rules and filters."""

    chosen: Tensor
    """Of the token that was chosen, float32 [rows]."""
    top_tokens: Tensor
    """The most probable tokens, int64 [rows, count]."""
    top_values: Tensor
    """Theirs, float32 [rows, count], falling."""

    def to_host(self) -> Logprobs:
        """The same on the host; waits for the device."""
        return Logprobs(self.chosen.cpu(), self.top_tokens.cpu(), self.top_values.cpu())

    def of(self, row: int, count: int) -> TokenLogprobs:
        """One row with its `count` best alternatives. For tensors on the host."""
        return TokenLogprobs(
            logprob=self.chosen[row].item(),
            top_token_ids=tuple(self.top_tokens[row, :count].tolist()),
            top_logprobs=tuple(self.top_values[row, :count].tolist()),
        )


@dataclass(frozen=True, slots=True)
class Draws:
    """What a step's rows got."""

    tokens: Tensor
    """int64 [rows] on the device; NUMERIC_FAULT where a row's logits were not finite."""
    logprobs: Logprobs | None
    """None where the plan asks for none."""


class DeviceSampler:
    """Samples with each sequence's own parameters; its tables are on `device`."""

    def __init__(
        self, *, places: int, vocabulary: int, eos_token_ids: Set[int], device: torch.device
    ) -> None:
        self._table = SamplingTable(places, vocabulary, eos_token_ids, device)

    @property
    def last_tokens(self) -> Tensor:
        """The newest token of each place, int64 [places + 1]: the next step's input."""
        return self._table.last_tokens

    @property
    def padding_place(self) -> int:
        """The place to name for a row that belongs to no sequence."""
        return self._table.padding_place

    def start(self, places: Items[int], sequences: Items[Sequence]) -> None:
        """Gives places to sequences that begin, or go on after a preemption.

        To be called before the step that first samples for them is launched, with all
        tokens that they have so far in `prompt` and `output`.
        """
        self._table.write(places, sequences)

    def sample(self, logits: Tensor, places: Tensor, lengths: Tensor, plan: Plan) -> Draws:
        """One token a row, and the newest token of its place.

        `logits` [rows, vocabulary], any float type; `places` int64 [rows]; `lengths` int64
        [rows], the tokens of prompt and answer before the one that is drawn. `plan` covers
        what the rows' sequences ask for. Nothing here waits for a CUDA device, and where
        `plan.capturable` the call may be captured in a graph.
        """
        rules = adjusted(logits, self._table, places, lengths, plan)
        tokens = self._choose(rules, places, lengths, plan)
        logprobs = None if plan.logprobs is None else _logprobs(logits, tokens, plan.logprobs)
        if plan.penalties:  # last: a call that runs out of memory has counted nothing
            self._table.count(places, tokens)
        return Draws(tokens, logprobs)

    def _choose(self, logits: Tensor, places: Tensor, lengths: Tensor, plan: Plan) -> Tensor:
        if logits.is_cuda:
            # Triton comes with PyTorch's CUDA builds only.
            from engine_svc.kernels import draws as kernels

            return kernels.choose(logits, self._table, places, lengths, plan)
        logits = logits.float()
        # A sum is finite only where every summand is, and costs a tenth of isfinite.
        finite = logits.sum(-1).isfinite()
        tokens = logits.argmax(-1)
        if plan.draws:
            self._draw(tokens, logits, places, lengths)
        self._table.last_tokens[places] = tokens.where(finite, 0)
        return tokens.where(finite, NUMERIC_FAULT)

    def _draw(self, tokens: Tensor, logits: Tensor, places: Tensor, lengths: Tensor) -> None:
        """Replaces the tokens of rows that are not greedy. CPU only."""
        rows = (self._table.floats("temperature", places) > 0).squeeze(1).nonzero().squeeze(1)
        drawn = places[rows]
        floats, integers = self._table.floats, self._table.integers
        filters = Filters(
            temperature=floats("temperature", drawn),
            top_p=floats("top_p", drawn),
            min_p=floats("min_p", drawn),
            top_k=integers("top_k", drawn),
        )
        row_keys = keys(integers("seed", drawn), lengths[rows].unsqueeze(1))
        tokens[rows] = draw(logits[rows], filters, row_keys)


def _logprobs(logits: Tensor, tokens: Tensor, count: int) -> Logprobs:
    logits = logits.float()
    total = logits.logsumexp(-1, keepdim=True)
    chosen = logits.gather(1, tokens.clamp(min=0).unsqueeze(1)) - total
    top = logits.topk(count, dim=-1)
    return Logprobs(chosen.squeeze(1), top.indices, top.values - total)
