"""What changes the logits before a token is chosen: penalties, biases, forbidden ends.

The values lie in the sampling table; a rule that no sequence of the step asks for is
not computed, and a step without rules is not even copied. Nothing here waits for the
device. Called by `sampler`; `kernels.penalties` computes penalties on CUDA.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

from engine_svc.sampling_plan import Plan
from engine_svc.sampling_table import SamplingTable

FORBIDDEN: Final = -1e30
"""Never chosen, yet finite, and so is a sum of many: infinity is a fault of the model."""


def adjusted(
    logits: Tensor, table: SamplingTable, places: Tensor, lengths: Tensor, plan: Plan
) -> Tensor:
    """Logits [rows, vocabulary] after the plan's rules; the same tensor where it has none.

    Otherwise float32, and finite in every row whose logits were finite; other rows hold
    NaN. `places`, `lengths` int64 [rows], lengths as in `random_stream.keys`.
    """
    if not plan.rules:
        return logits
    if logits.is_cuda:
        from engine_svc.kernels import penalties  # Triton comes with CUDA builds only

        result = penalties.penalised(logits, table, places, counted=plan.penalties)
    else:
        result = logits.float()
        # Adds zero, or NaN where some summand is not finite.
        result = result + result.sum(-1, keepdim=True) * 0.0
        result = _penalised(result, table, places) if plan.penalties else result
    if plan.biases:
        result.scatter_add_(1, table.bias_tokens[places], table.bias_values[places])
    if plan.ends:
        _forbid_ends(result, table, places, lengths)
    return result


def _penalised(logits: Tensor, table: SamplingTable, places: Tensor) -> Tensor:
    """Repetition as in CTRL (Keskar et al. 2019, section 4.1); presence and frequency."""
    history = table.history[places]
    counts = history >> 1
    repetition = table.floats("repetition", places)
    scaled = torch.where(logits > 0, logits / repetition, logits * repetition)
    # Tiny penalties overflow.
    scaled = scaled.clamp(FORBIDDEN, -FORBIDDEN)
    result = torch.where(history > 0, scaled, logits)
    result -= table.floats("presence", places) * (counts > 0)
    result -= table.floats("frequency", places) * counts
    return result


def _forbid_ends(logits: Tensor, table: SamplingTable, places: Tensor, lengths: Tensor) -> None:
    unfinished = lengths.unsqueeze(1) < table.integers("ends_from", places)
    ends = table.ends[places]
    found = logits.gather(1, ends)
    # NaN stays, for no rule may hide a fault.
    logits.scatter_(1, ends, found.masked_fill(unfinished & ~found.isnan(), FORBIDDEN))
