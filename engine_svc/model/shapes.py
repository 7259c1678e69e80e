"""Shapes of well-known models, to be run with random weights in benchmarks.

A model's speed depends on its shape and not on what it has learnt. Called by `loading`
for a model named `shape:NAME`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import torch

from engine_svc.model.config import ModelConfig, Rope
from engine_svc.model.parameters import Parameters, allocate

PREFIX: Final = "shape:"

SHAPES: Final[Mapping[str, ModelConfig]] = {
    "smollm2-135m": ModelConfig(
        family="llama",
        vocabulary_size=49_152,
        layers=30,
        hidden_size=576,
        intermediate_size=1536,
        heads=9,
        kv_heads=3,
        head_size=64,
        norm_eps=1e-5,
        context_tokens=8192,
        tied_embeddings=True,
        rope=Rope(theta=100_000.0),
    ),
    "llama-3.1-8b": ModelConfig(
        family="llama",
        vocabulary_size=128_256,
        layers=32,
        hidden_size=4096,
        intermediate_size=14_336,
        heads=32,
        kv_heads=8,
        head_size=128,
        norm_eps=1e-5,
        context_tokens=131_072,
        tied_embeddings=False,
        rope=Rope(
            theta=500_000.0,
            kind="llama3",
            factor=8.0,
            low_frequency_factor=1.0,
            high_frequency_factor=4.0,
            original_context_tokens=8192,
        ),
    ),
}
"""Name → shape, as published: SmolLM2 (Allal et al. 2025), Llama 3.1 (Grattafiori et al. 2024)."""

SPREAD: Final = 0.02
"""Standard deviation of random matrices: transformers' default, which keeps logits finite."""


def random_parameters(
    config: ModelConfig, device: torch.device, dtype: torch.dtype, seed: int = 0
) -> Parameters:
    """Normal matrices and unit norms, drawn where they are to lie; one seed, one model."""
    generator = torch.Generator(device).manual_seed(seed)
    parameters = allocate(config, device, dtype)
    for name, part in parameters.named().items():
        if "norm" in name:
            part.fill_(1.0)
        elif name.endswith("bias"):
            part.zero_()
        else:
            part.normal_(0.0, SPREAD, generator=generator)
    return parameters
