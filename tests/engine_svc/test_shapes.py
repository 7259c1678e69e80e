from __future__ import annotations

import dataclasses

import pytest
import torch

from engine_svc.model import shapes
from engine_svc.model.loading import load
from engine_svc.model.parameters import Parameters, allocate
from engine_svc.model.shapes import SHAPES, random_parameters
from ssjf.wire.run import StartupError

from .conftest import CPU

SMALL = dataclasses.replace(SHAPES["smollm2-135m"], layers=2, vocabulary_size=100)


def test_the_shapes_have_the_parameters_that_their_names_say() -> None:
    meta = torch.device("meta")

    counts = {n: allocate(c, meta, torch.bfloat16).count for n, c in SHAPES.items()}
    assert counts == {"smollm2-135m": 134_515_008, "llama-3.1-8b": 8_030_261_248}


def test_a_seed_gives_one_model() -> None:
    first, again, other = (random_parameters(SMALL, CPU, torch.float32, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(parts(first), parts(again), strict=True))
    assert not torch.equal(first.layers[1].down, other.layers[1].down)


def parts(parameters: Parameters) -> list[torch.Tensor]:
    return list(parameters.named().values())


def test_an_unknown_shape_is_refused_with_those_there_are() -> None:
    with pytest.raises(StartupError, match=r"no shape gpt-7; there are: smollm2-135m, llama-3\.1"):
        load("shape:gpt-7", device=CPU, dtype=torch.float32)


def test_a_shape_loads_with_the_embedded_tokenizer_and_no_end_of_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(shapes, "SHAPES", {"small": SMALL})
    loaded = load("shape:small", device=CPU, dtype=torch.float32, max_context_tokens=64)
    assert loaded.config == SMALL
    assert loaded.eos_token_ids == frozenset()
    assert loaded.parameters == sum(
        part.numel() for part in parts(random_parameters(SMALL, CPU, torch.float32))
    )
    assert loaded.tokenizer.decode(loaded.tokenizer.encode_prompt("Hello")).endswith("assistant\n")
