"""Prompts tokenised once, kept padded on the device, and the order in which they are read.

Owns what the naive loop spends its time on: after this, a step moves a few row numbers to
the device. Called by `train`.
"""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from predictor_svc.encoder import Encoder, PromptText
from predictor_svc.training.options import TrainOptions

WIDTH_STEP = 16
"""Batches are padded to multiples of this: few shapes for the allocator."""
BATCHES_SORTED = 8
"""Batches' worth of prompts that are sorted by length together: less padding, enough chance."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Rows of one step. Rows of one prompt may share one pass of the backbone."""

    rows: list[int]
    encoded: list[int]
    """Rows whose tokens the backbone reads: one a prompt."""
    owners: list[int]
    """For each of `rows`, which of `encoded` is its prompt's."""
    hidden: list[bool]
    """For each of `rows`, whether its LLM is not named this time."""


@dataclass(frozen=True, slots=True)
class TokenRows:
    """n encoded prompts."""

    ids: Tensor
    """(n, longest) on the device, padded with 0: int16 where the vocabulary allows, or int32."""
    lengths: NDArray[np.int64]
    """(n,) tokens of each."""
    groups: tuple[tuple[int, ...], ...]
    """Rows that differ in nothing but the LLM."""
    unknown_llm_token: int
    llm_position: int

    def tensors(self, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
        """(encoded, width) ids and mask, and (rows,) LLM tokens; int64."""
        device = self.ids.device
        lengths = self.lengths[batch.encoded]
        width = min(-(-int(lengths.max()) // WIDTH_STEP) * WIDTH_STEP, self.ids.shape[1])
        ids = self.ids[torch.tensor(batch.encoded, device=device), :width].long()
        places = torch.arange(width, device=device)
        mask = (places < torch.tensor(lengths, device=device)[:, None]).long()
        llms = self.ids[torch.tensor(batch.rows, device=device), self.llm_position].long()
        if any(batch.hidden):
            hidden = torch.tensor(batch.hidden, device=device)
            llms = llms.masked_fill(hidden, self.unknown_llm_token)
        if len(batch.encoded) == len(batch.rows) and any(batch.hidden):
            ids[:, self.llm_position] = llms
        return ids, mask, llms

    def batch_count(self, options: TrainOptions) -> int:
        """Steps of an epoch."""
        taken = [group[: options.rows_an_epoch] for group in self.groups]
        return -(-len(_parts(taken, options.rows_a_prompt)) // options.batch_size)


def tokenize(encoder: Encoder, texts: Sequence[PromptText], device: torch.device) -> TokenRows:
    """All prompts, encoded and padded."""
    encoded = encoder.encode(texts)
    lengths = np.array([len(row) for row in encoded])
    shape = (len(encoded), max(int(lengths.max()), encoder.llm_position + 1))
    highest = max(max(row) for row in encoded)
    padded = np.zeros(shape, dtype=np.int16 if highest <= np.iinfo(np.int16).max else np.int32)
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    start = encoder.llm_position + 1 if encoder.form.llms else 0
    for row, ids in enumerate(encoded):
        padded[row, : len(ids)] = ids
        groups[tuple(ids[start:])].append(row)
    return TokenRows(
        torch.tensor(padded, device=device),
        lengths,
        tuple(tuple(each) for each in groups.values()),
        encoder.unknown_llm_token,
        encoder.llm_position,
    )


def shuffled_batches(
    tokens: TokenRows, options: TrainOptions, draw: random.Random
) -> Iterator[Batch]:
    """An epoch's rows, each once, in random batches of similar length.

    At most `rows_an_epoch` of each prompt; a share `llm_dropout` with the LLM hidden.
    """
    groups = [draw.sample(each, len(each))[: options.rows_an_epoch] for each in tokens.groups]
    order = _parts(groups, options.rows_a_prompt)
    draw.shuffle(order)
    size = options.batch_size
    batches = []
    for start in range(0, len(order), size * BATCHES_SORTED):
        near = order[start : start + size * BATCHES_SORTED]
        near.sort(key=lambda rows: int(tokens.lengths[rows[0]]))
        batches += [near[at : at + size] for at in range(0, len(near), size)]
    draw.shuffle(batches)
    for parts in batches:
        rows = list(chain.from_iterable(parts))
        owners = [owner for owner, part in enumerate(parts) for _ in part]
        hidden = [options.llm_dropout > 0 and draw.random() < options.llm_dropout for _ in rows]
        yield Batch(rows, [part[0] for part in parts], owners, hidden)


def _parts(groups: Sequence[Sequence[int]], most: int) -> list[Sequence[int]]:
    """Groups cut into parts of at most `most` rows."""
    return [rows[at : at + most] for rows in groups for at in range(0, len(rows), most)]
