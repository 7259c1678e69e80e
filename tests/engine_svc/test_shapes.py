from __future__ import annotations

import dataclasses

import pytest
import torch

from engine_svc.model.loading import load
from engine_svc.model.shapes import SHAPES, random_parameters
from ssjf.wire.run import StartupError

from .conftest import CPU

SMALL = dataclasses.replace(SHAPES["smollm2-135m"], layers=2, vocabulary_size=100)


def test_the_shapes_have_the_parameters_that_their_names_say() -> None:
    meta = torch.device("meta")
    from engine_svc.model.parameters import allocate

    counts = {n: allocate(c, meta, torch.bfloat16).count for n, c in SHAPES.items()}
    assert counts == {"smollm2-135m": 134_515_008, "llama-3.1-8b": 8_030_261_248}


def test_a_seed_gives_one_model() -> None:
    first, again, other = (random_parameters(SMALL, CPU, torch.float32, seed) for seed in (1, 1, 2))
    assert all(torch.equal(a, b) for a, b in zip(parts(first), parts(again), strict=True))
    assert not torch.equal(first.layers[1].down, other.layers[1].down)


def parts(parameters: object) -> list[torch.Tensor]:
    return list(parameters.named().values())  # type: ignore[attr-defined]


def test_an_unknown_shape_is_refused_with_those_there_are() -> None:
    with pytest.raises(StartupError, match=r"no shape gpt-7; there are: smollm2-135m, llama-3\.1"):
        load("shape:gpt-7", device=CPU, dtype=torch.float32)
