"""Every family against transformers: tiny random models, from their own state and from GGUF."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    MistralConfig,
    PreTrainedConfig,
    Qwen2Config,
    Qwen3Config,
)

from engine_svc.attention import ChunkTables, RowTables, step_attention
from engine_svc.kv_cache import CacheShape, KVCache
from engine_svc.model import families
from engine_svc.model.config import UnsupportedModel
from engine_svc.model.decoder import Decoder, ForwardBatch
from engine_svc.model.gguf_file import NAMES, GGUFFile
from engine_svc.model.huggingface import from_huggingface
from engine_svc.model.parameters import allocate, fill

CPU = torch.device("cpu")
SIZES: dict[str, Any] = {
    "vocab_size": 61,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "initializer_range": 0.4,
}
LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 32,
}
YARN = {
    "rope_type": "yarn",
    "rope_theta": 10_000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 16,
}
CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**SIZES, tie_word_embeddings=True),
    "llama with biases": LlamaConfig(**SIZES, attention_bias=True, mlp_bias=True),
    "llama with scaled rope": LlamaConfig(**SIZES, rope_parameters=LLAMA3_ROPE),
    "llama with wide heads": LlamaConfig(**SIZES, head_dim=16),
    "mistral": MistralConfig(**SIZES, sliding_window=None, head_dim=6),
    "mistral with a window": MistralConfig(**SIZES, sliding_window=5, head_dim=6),
    "qwen2": Qwen2Config(**SIZES, tie_word_embeddings=True),
    "qwen2 with windows": Qwen2Config(
        **SIZES, use_sliding_window=True, sliding_window=5, max_window_layers=1
    ),
    "qwen2 with yarn": Qwen2Config(**SIZES, rope_parameters=YARN),
    "qwen3": Qwen3Config(**SIZES, head_dim=10),
}
TOKENS = [3, 14, 15, 9, 26, 5, 35, 8, 9, 7, 9, 32, 38, 46, 26, 43, 38, 32, 7, 9]
every_config = pytest.mark.parametrize("config", CONFIGS.values(), ids=CONFIGS)


def random_model(config: PreTrainedConfig) -> Any:
    """transformers' own, with no weight left at what it is initialised to."""
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config)  # type: ignore[no-untyped-call]
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if name.endswith(("bias", "norm.weight")):
                weight.add_(torch.randn_like(weight) * 0.3)
    config.architectures = [type(model).__name__]
    return model.eval()


def decoder_of(model: Any) -> Decoder:
    config = from_huggingface(model.config)
    parameters = allocate(config, CPU, torch.float32)
    fill(parameters, model.state_dict().items())
    return Decoder(parameters, config.context_tokens)


@torch.inference_mode()
def logits(model: Decoder, tokens: list[int], chunk: int) -> Tensor:
    """Of every token: the first read as chunks, the last three decoded one by one."""
    shape = CacheShape(total_blocks=8, block_tokens=4, max_sequences=1, max_context_tokens=32)
    cache = KVCache(model.config, shape, CPU, torch.float32)
    table = torch.tensor([[5, 1, 3, 2, 8, 4, 7, 6]], dtype=torch.int32)
    read = len(tokens) - 3
    borders = [*range(0, read, chunk), *range(read, len(tokens) + 1)]
    found = []
    for begin, end in itertools.pairwise(borders):
        positions = torch.arange(begin, end)
        slots = table[0, positions // 4].long() * 4 + positions % 4
        context = torch.tensor([end], dtype=torch.int32)
        starts = torch.tensor([0, end - begin], dtype=torch.int32)
        chunks = ChunkTables(starts, context, table, end - begin, end)
        attention = (
            step_attention(cache, slots, chunks, None)
            if begin < read
            else step_attention(cache, slots, None, RowTables(table, context))
        )
        ids = torch.tensor(tokens[begin:end])
        found.append(model.forward(ForwardBatch(ids, positions, attention)))
    return torch.cat(found)


@torch.inference_mode()
def reference_logits(model: Any, tokens: list[int]) -> Tensor:
    found: Tensor = model(torch.tensor([tokens])).logits[0]
    return found


@pytest.mark.parametrize("chunk", [20, 7], ids=["at once", "in chunks"])
@every_config
def test_logits_are_those_of_transformers(config: PreTrainedConfig, chunk: int) -> None:
    model = random_model(config)
    ours = logits(decoder_of(model), TOKENS, chunk)
    torch.testing.assert_close(ours, reference_logits(model, TOKENS), rtol=1e-4, atol=1e-4)


@every_config
def test_every_parameter_is_counted_once(config: PreTrainedConfig) -> None:
    model = random_model(config)
    count = allocate(from_huggingface(model.config), CPU, torch.float32).count
    assert count == model.num_parameters()


def write_gguf(path: Path, family: str, model: Any) -> None:
    """The model as llama.cpp's own converter would write it, in float32."""
    config = model.config
    writer = gguf.GGUFWriter(path, family)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(config.rope_parameters["rope_theta"])
    if getattr(config, "head_dim", None):
        writer.add_key_length(config.head_dim)
    if config.rope_parameters["rope_type"] == "yarn":
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(config.rope_parameters["factor"])
        original = config.rope_parameters["original_max_position_embeddings"]
        writer.add_rope_scaling_orig_ctx_len(original)
    if config.rope_parameters["rope_type"] == "llama3":
        plain = LlamaConfig(**SIZES)
        plain.architectures = ["LlamaForCausalLM"]
        ratio = frequencies(plain) / frequencies(config)
        writer.add_tensor("rope_freqs.weight", ratio.numpy())
    writer.add_token_list([f"token {i}" for i in range(config.vocab_size)])
    theirs = {ours: name for name, ours in NAMES.items()}
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        stem, _, kind = name.rpartition(".")
        layer = ""
        if stem.startswith("model.layers."):
            _, _, index, stem = stem.split(".", 3)
            layer = f"blk.{index}."
        values = weight.numpy()
        heads = {"attn_q": config.num_attention_heads, "attn_k": config.num_key_value_heads}
        if family == "llama" and theirs[stem] in heads:
            values = pairs_adjacent(values, heads[theirs[stem]])
        writer.add_tensor(f"{layer}{theirs[stem]}.{kind}", np.ascontiguousarray(values))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def frequencies(config: PreTrainedConfig) -> Tensor:
    from engine_svc.model.rope import inverse_frequencies

    found = from_huggingface(config)
    return inverse_frequencies(found.rope, found.head_size)


def pairs_adjacent(values: np.ndarray, heads: int) -> np.ndarray:
    halves = values.reshape(heads, 2, values.shape[0] // heads // 2, *values.shape[1:])
    return halves.swapaxes(1, 2).reshape(values.shape)


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("llama", "llama"),
        ("llama", "llama with biases"),
        ("llama", "llama with scaled rope"),
        ("llama", "mistral"),
        ("qwen2", "qwen2"),
        ("qwen2", "qwen2 with yarn"),
        ("qwen3", "qwen3"),
    ],
)
def test_a_gguf_file_gives_the_logits_of_transformers(
    tmp_path: Path, family: str, name: str
) -> None:
    model = random_model(CONFIGS[name])
    write_gguf(tmp_path / "model.gguf", family, model)
    file = GGUFFile(tmp_path / "model.gguf")
    config = file.config()
    parameters = allocate(config, CPU, torch.float32)
    fill(parameters, file.weights(config))
    ours = logits(Decoder(parameters, config.context_tokens), TOKENS, 7)
    torch.testing.assert_close(ours, reference_logits(model, TOKENS), rtol=1e-4, atol=1e-4)


def test_an_unsupported_architecture_is_told_which_are() -> None:
    names = "LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM, Qwen3ForCausalLM"
    with pytest.raises(UnsupportedModel, match=f"MambaForCausalLM is not supported.*{names}"):
        families.of_architectures(["MambaForCausalLM"])
    with pytest.raises(UnsupportedModel, match=r"gemma .GGUF. is not supported"):
        families.of_gguf("gemma")


def test_weights_of_another_shape_and_unknown_ones_are_named() -> None:
    model = random_model(CONFIGS["llama"])
    parameters = allocate(from_huggingface(model.config), CPU, torch.float32)
    with pytest.raises(ValueError, match=r"model.norm.weight is \[7\] and should be \[24\]"):
        fill(parameters, [("model.norm.weight", torch.ones(7))])
    with pytest.raises(UnsupportedModel, match=r"weights model\.layers\.0\.moe\.weight are not"):
        fill(parameters, [("model.layers.0.moe.weight", torch.ones(7))])
