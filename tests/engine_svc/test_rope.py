from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from engine_svc.model.config import UnsupportedModel, from_huggingface
from engine_svc.model.rope import RotaryTable, inverse_frequencies, rotate


def config(**parameters: Any) -> LlamaConfig:
    return LlamaConfig(
        architectures=["LlamaForCausalLM"],
        hidden_size=64,
        num_attention_heads=2,
        rope_parameters={"rope_theta": 10_000.0, "rope_type": "default", **parameters},
    )


@pytest.mark.parametrize(
    "parameters",
    [
        {"rope_type": "linear", "factor": 4.0},
        {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 128,
        },
    ],
    ids=lambda p: p["rope_type"],
)
def test_scaled_frequencies_are_those_of_transformers(parameters: dict[str, Any]) -> None:
    found = config(**parameters)
    expected, _ = ROPE_INIT_FUNCTIONS[parameters["rope_type"]](found, torch.device("cpu"))
    ours = inverse_frequencies(from_huggingface(found).rope, 32)
    torch.testing.assert_close(ours, expected, rtol=1e-6, atol=0)


def test_rotation_is_that_of_transformers() -> None:
    found = config()
    heads = torch.randn(5, 3, 32)  # [tokens, heads, size]; transformers: [1, heads, tokens, size]
    positions = torch.tensor([0, 1, 7, 100, 500])
    cos, sin = LlamaRotaryEmbedding(found)(heads, positions[None])
    theirs = heads.transpose(0, 1)[None]
    expected, _ = apply_rotary_pos_emb(theirs, theirs, cos, sin)
    rope = from_huggingface(found).rope
    table = RotaryTable(rope, 32, 501, torch.device("cpu"), torch.float32)
    turned = rotate(heads, *table.at(positions))
    torch.testing.assert_close(turned, expected[0].transpose(0, 1))


def test_other_scalings_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="rope type yarn is not supported"):
        from_huggingface(config(rope_type="yarn", factor=2.0))
