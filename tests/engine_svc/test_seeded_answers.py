"""A seeded answer is the same alone and in any batch: exactly so in float32.

In bfloat16 logits differ in their last bits from batch to batch, so a draw may turn
where two tokens' scores are nearly equal, and nowhere else.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from engine_svc.assembly import Assembled, build
from engine_svc.config import EngineSettings
from engine_svc.model.loading import LoadedModel, load
from engine_svc.random_stream import exponentials, keys, mixed_seed

from .conftest import CPU, MakeEngine
from .turns import Turns, alone, make_sequence

KINDS: list[dict[str, Any]] = [
    {},
    {"temperature": 1.0},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 1.3, "top_k": 20},
    {"temperature": 1.0, "min_p": 0.05},
    {"temperature": 0.9, "repetition_penalty": 1.3, "frequency_penalty": 0.4},
    {"temperature": 1.1, "top_k": 50, "top_p": 0.8, "min_p": 0.01, "min_tokens": 9},
]
SEEDS = range(12)
TOKENS = 24
BF16_NOISE = 2.0**-5
"""Of a score, as a share of the largest logit: some steps of rounding to 8 bits."""


def prompt_of(seed: int) -> list[int]:
    return [100 + seed, *range(40 + 3 * seed)]


def test_float32_answers_are_the_same_alone_and_together(make_engine: MakeEngine) -> None:
    def sequence(index: int) -> Any:
        kind = KINDS[index % len(KINDS)]
        return make_sequence(index, prompt_of(index), seed=index, max_tokens=TOKENS, **kind)

    turns = Turns(make_engine(max_sequences=8))
    turns.start(*map(sequence, range(6)))
    turns.turn(5)
    turns.start(*map(sequence, range(6, 14)))
    turns.until_idle()
    for index in range(14):
        assert turns.tokens(index) == alone(make_engine, sequence(index))


def test_bfloat16_answers_part_at_near_ties_alone(tiny_folder: Path) -> None:
    loaded = load(str(tiny_folder), device=CPU, dtype=torch.bfloat16)
    reference = AutoModelForCausalLM.from_pretrained(tiny_folder, dtype=torch.float32)
    partings = compare_with_alone(loaded, "cpu", reference)
    assert partings <= len(SEEDS) // 2


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.timeout(300)
def test_bfloat16_answers_on_cuda_part_at_near_ties_alone(reference: Any) -> None:
    loaded = load("", device=torch.device("cuda"), dtype=torch.bfloat16)
    assert compare_with_alone(loaded, "cuda", reference) <= len(SEEDS) // 2


def compare_with_alone(loaded: LoadedModel, device: Any, reference: Any) -> int:
    """How many answers part from what they are alone; fails where one does so clearly."""
    settings = EngineSettings(device=device, kv_tokens=16_384, max_sequences=16)

    def sequence(seed: int) -> Any:
        return make_sequence(seed, prompt_of(seed), seed=seed, max_tokens=TOKENS, temperature=1.0)

    def make() -> Assembled:
        return build(settings, loaded)

    turns = Turns(make())
    turns.start(*map(sequence, SEEDS))
    turns.until_idle()
    together = {seed: turns.tokens(seed) for seed in SEEDS}
    return sum(
        parts_at_a_near_tie(seed, together[seed], alone(make, sequence(seed)), reference)
        for seed in SEEDS
    )


def parts_at_a_near_tie(seed: int, first: list[int], second: list[int], reference: Any) -> bool:
    """Whether two answers part; fails where the scores of the two tokens are no near-tie."""
    pairs = enumerate(zip(first, second, strict=False))
    at = next((at for at, (one, other) in pairs if one != other), None)
    if at is None:
        assert len(first) == len(second)
        return False
    before = [*prompt_of(seed), *first[:at]]
    with torch.inference_mode():
        logits = reference(torch.tensor([before])).logits[0, -1].float()
    row_keys = keys(torch.tensor([mixed_seed(seed)]), torch.tensor([len(before)]))
    scores = logits - exponentials(row_keys.unsqueeze(1), torch.arange(len(logits)))[0].log()
    gap = float((scores[first[at]] - scores[second[at]]).abs())
    assert gap < BF16_NOISE * float(logits.abs().max())
    return True
