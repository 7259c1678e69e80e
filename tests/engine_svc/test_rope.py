from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding, apply_rotary_pos_emb

from engine_svc.model.config import Rope, UnsupportedModel
from engine_svc.model.huggingface import from_huggingface
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
        {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64},
        {
            "rope_type": "yarn",
            "factor": 4.0,
            "original_max_position_embeddings": 4096,
            "beta_fast": 16.0,
            "beta_slow": 2.0,
            "truncate": False,
            "mscale": 0.7,
            "mscale_all_dim": 1.3,
        },
    ],
    ids=["linear", "llama3", "yarn", "yarn with every option"],
)
def test_scaled_frequencies_are_those_of_transformers(parameters: dict[str, Any]) -> None:
    found = config(**parameters)
    kind = parameters["rope_type"]
    expected, magnitude = ROPE_INIT_FUNCTIONS[kind](found, torch.device("cpu"))
    rope = from_huggingface(found).rope
    torch.testing.assert_close(inverse_frequencies(rope, 32), expected, rtol=1e-6, atol=0)
    assert rope.magnitude == pytest.approx(magnitude)


def test_frequencies_are_divided_pair_by_pair() -> None:
    plain = inverse_frequencies(Rope(100.0), 4)
    divided = inverse_frequencies(Rope(100.0, kind="divided", divisors=(1.0, 8.0)), 4)
    torch.testing.assert_close(divided, plain / torch.tensor([1.0, 8.0]))


def test_rotation_is_that_of_transformers() -> None:
    found = config()
    heads = torch.randn(5, 3, 32)  # [tokens, heads, size]; transformers: [1, heads, tokens, size]
    positions = torch.tensor([0, 1, 7, 100, 500])
    cos, sin = LlamaRotaryEmbedding(found)(heads, positions[None])
    theirs = heads.transpose(0, 1)[None]
    expected, _ = apply_rotary_pos_emb(theirs, theirs, cos, sin)
    rope = from_huggingface(found).rope
    table = RotaryTable(rope, 32, 501, torch.device("cpu"))
    turned = rotate(heads, table.at(positions))
    torch.testing.assert_close(turned, expected[0].transpose(0, 1))


def test_other_scalings_are_refused_by_name() -> None:
    with pytest.raises(UnsupportedModel, match="rope type dynamic is not supported"):
        from_huggingface(config(rope_type="dynamic", factor=2.0))
