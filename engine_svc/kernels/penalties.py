"""Penalties as one Triton kernel, where PyTorch would sweep over the logits ten times.

The same as `logit_rules` computes on CPU, which calls it on CUDA.
"""

from __future__ import annotations

from typing import Final

import torch
import triton
import triton.language as tl
from torch import Tensor

from engine_svc.sampling_table import FLOATS, INTEGERS, WORDS, SamplingTable

TILE: Final = 4096

# A row of the table is WORDS integers of 64 bits, or twice as many floats.
_WORDS = tl.constexpr(WORDS)
_REPETITION = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("repetition"))
_PRESENCE = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("presence"))
_FREQUENCY = tl.constexpr(2 * len(INTEGERS) + FLOATS.index("frequency"))
_LARGEST = tl.constexpr(1e30)


def penalised(logits: Tensor, table: SamplingTable, places: Tensor, *, counted: bool) -> Tensor:
    """A float32 copy of logits [rows, vocabulary], NaN where they are not finite.

    Penalties are applied where `counted` says that some sequence has any.
    """
    rows, vocabulary = logits.shape
    result = torch.empty((rows, vocabulary), dtype=torch.float32, device=logits.device)
    history = table.history if counted else result
    _penalise[(rows, triton.cdiv(vocabulary, TILE))](
        logits.contiguous(), table.words.view(torch.float32), history, places, result,
        COUNTED=counted, VOCABULARY=vocabulary, TILE=TILE, num_warps=8,
    )  # fmt: skip
    return result


@triton.jit  # type: ignore[untyped-decorator, unused-ignore]
def _penalise(  # type: ignore[no-untyped-def]
    logits_ptr, floats_ptr, history_ptr, places_ptr, result_ptr,
    COUNTED: tl.constexpr, VOCABULARY: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    token = tl.program_id(1) * TILE + tl.arange(0, TILE)
    is_token = token < VOCABULARY
    cells = row * VOCABULARY + token
    logit = tl.load(logits_ptr + cells, mask=is_token, other=0.0).to(tl.float32)
    finite = tl.abs(logit) < float("inf")
    if COUNTED:
        place = tl.load(places_ptr + row)
        repetition = tl.load(floats_ptr + place * 2 * _WORDS + _REPETITION)
        presence = tl.load(floats_ptr + place * 2 * _WORDS + _PRESENCE)
        frequency = tl.load(floats_ptr + place * 2 * _WORDS + _FREQUENCY)
        if (repetition != 1) | (presence != 0) | (frequency != 0):
            # Twice the count in the answer, and 1 where the prompt has the token.
            history = tl.load(history_ptr + place * VOCABULARY + token, mask=is_token, other=0)
            count = (history >> 1).to(tl.float32)
            scaled = tl.where(logit > 0, logit / repetition, logit * repetition)
            scaled = tl.minimum(tl.maximum(scaled, -_LARGEST), _LARGEST)
            logit = tl.where(history > 0, scaled, logit)
            logit = logit - tl.where(count > 0, presence, 0.0) - frequency * count
    tl.store(result_ptr + cells, tl.where(finite, logit, float("nan")), mask=is_token)
