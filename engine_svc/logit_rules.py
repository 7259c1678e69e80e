"""What changes the logits before a token is chosen: penalties, biases, forbidden ends.

Rows that ask for nothing are not touched, and a batch that asks for nothing is not
even copied. Everything is computed from the sequences' tokens, so there is no state
to lose. Called by `sampler`.
"""

from __future__ import annotations

from collections.abc import Iterable, Set
from collections.abc import Sequence as Items

import torch
from torch import Tensor

from engine_svc.sequence import Sequence


def adjusted(logits: Tensor, sequences: Items[Sequence], eos_token_ids: Set[int]) -> Tensor:
    """Logits [rows, vocabulary] after every rule; the same tensor where there is none."""
    penalised = [row for row, s in enumerate(sequences) if s.params.penalised]
    biased = [row for row, s in enumerate(sequences) if s.params.logit_bias]
    unfinished = [row for row, s in enumerate(sequences) if len(s.output) < s.params.min_tokens]
    if not (penalised or biased or unfinished):
        return logits
    logits = logits.clone()
    if penalised:
        rows = torch.tensor(penalised, device=logits.device)
        logits[rows] = _penalised(logits[rows], [sequences[row] for row in penalised])
    if biased:
        _add_biases(logits, biased, sequences)
    if unfinished:
        _forbid_ends(logits, unfinished, sequences, eos_token_ids)
    return logits


def _penalised(logits: Tensor, sequences: Items[Sequence]) -> Tensor:
    """Repetition as in CTRL (Keskar et al. 2019, section 4.1); presence and frequency."""
    counts = torch.zeros_like(logits)
    in_answer = _cells([s.output for s in sequences], logits.device)
    counts.index_put_(in_answer, counts.new_ones(()), accumulate=True)
    present = counts > 0
    seen = present.clone()
    in_prompt = _cells([s.prompt for s in sequences], logits.device)
    seen.index_put_(in_prompt, seen.new_ones(()))

    def column(values: Iterable[float]) -> Tensor:
        return torch.tensor(list(values), device=logits.device, dtype=logits.dtype)[:, None]

    repetition = column(s.params.repetition_penalty for s in sequences)
    scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
    once = column(s.params.presence_penalty for s in sequences)
    each = column(s.params.frequency_penalty for s in sequences)
    return torch.where(seen, scaled, logits) - once * present - each * counts


def _add_biases(logits: Tensor, rows: Items[int], sequences: Items[Sequence]) -> None:
    biases = [sequences[row].params.logit_bias for row in rows]
    cells = _cells(biases, logits.device, rows)
    values = [value for bias in biases for value in bias.values()]
    logits.index_put_(cells, logits.new_tensor(values), accumulate=True)


def _forbid_ends(
    logits: Tensor, rows: Items[int], sequences: Items[Sequence], eos_token_ids: Set[int]
) -> None:
    ends = [_ends(sequences[row], eos_token_ids) for row in rows]
    logits.index_put_(_cells(ends, logits.device, rows), logits.new_tensor(float("-inf")))


def _ends(sequence: Sequence, eos_token_ids: Set[int]) -> Set[int]:
    params = sequence.params
    return params.stop_token_ids if params.ignore_eos else params.stop_token_ids | eos_token_ids


def _cells(
    tokens: Iterable[Iterable[int]], device: torch.device, rows: Items[int] | None = None
) -> tuple[Tensor, Tensor]:
    """Index (row, token) of every token; the n-th collection lies in row `rows[n]`, or n."""
    pairs = [
        (row if rows is None else rows[row], token)
        for row, collection in enumerate(tokens)
        for token in collection
    ]
    index = torch.tensor(pairs, dtype=torch.int64, device=device).reshape(-1, 2)
    return index[:, 0], index[:, 1]
