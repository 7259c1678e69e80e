"""One step of sampling: sequences, a row of logits each, and what they get."""

from __future__ import annotations

from collections.abc import Sequence as Items

import torch
from torch import Tensor

from engine_svc.sampler import DeviceSampler, Draws
from engine_svc.sampling_plan import Plan, PlanTally
from engine_svc.sampling_table import SamplingTable
from engine_svc.sequence import Sequence

EOS = frozenset({2})


def plan_for(sequences: Items[Sequence]) -> Plan:
    tally = PlanTally()
    for sequence in sequences:
        tally.add(sequence.params)
    return tally.plan


def lengths_of(sequences: Items[Sequence]) -> Tensor:
    return torch.tensor([s.length for s in sequences])


def table_of(sequences: Items[Sequence], vocabulary: int, device: str = "cpu") -> SamplingTable:
    """A table whose place n belongs to the n-th sequence."""
    table = SamplingTable(len(sequences), vocabulary, EOS, torch.device(device))
    table.write(range(len(sequences)), sequences)
    return table


def sample(logits: Tensor, sequences: Items[Sequence]) -> Draws:
    """A step of a new sampler, on the device of the logits."""
    rows, vocabulary = logits.shape
    sampler = DeviceSampler(
        places=rows, vocabulary=vocabulary, eos_token_ids=EOS, device=logits.device
    )
    sampler.start(range(rows), sequences)
    places = torch.arange(rows, device=logits.device)
    lengths = lengths_of(sequences).to(logits.device)
    return sampler.sample(logits, places, lengths, plan_for(sequences))
