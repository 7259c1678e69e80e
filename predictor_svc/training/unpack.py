"""A Llama model's GGUF file to a folder of the published form, once for an environment.

Owns where such folders lie, that only whole ones appear (also where several trainings start
at once), and the names that the two forms have for a weight. The `gguf` package dequantises,
transformers converts the tokenizer. Called by `backbone`.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

NAMES = {
    "token_embd": "embed_tokens",
    "output_norm": "norm",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Name in GGUF to published name, both without layer and `.weight`."""


def unpacked(file: Path, folder: Path | None = None) -> Path:
    """The folder of a GGUF file, written below `folder` if it is not there yet.

    By default below the environment's share/ssjf/backbones. Raises OSError where the file
    cannot be read or the folder not be written, ValueError where it is no Llama model's.
    """
    home = folder or Path(sys.prefix) / "share" / "ssjf" / "backbones"
    found = home / file.stem
    if not found.is_dir():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home, prefix=".unpack-") as scratch:
            made = Path(scratch) / file.stem
            made.mkdir()
            _write_model(file, made)
            _write_tokenizer(file, made)
            try:
                made.rename(found)
            except OSError:
                if not found.is_dir():  # else another process was faster
                    raise
    return found


def _write_model(file: Path, folder: Path) -> None:
    """config.json and the weights, fp16: finer than what they were quantised to."""
    from gguf import GGUFReader, dequantize

    reader = GGUFReader(file)

    def number(key: str) -> float:
        field = reader.get_field(f"llama.{key}")
        if field is None:
            raise ValueError(f"{file}: no llama.{key}: not a Llama model's GGUF file")
        return float(field.contents())

    heads, kv_heads = int(number("attention.head_count")), int(number("attention.head_count_kv"))
    weights = {}
    for tensor in reader.tensors:
        values = dequantize(tensor.data, tensor.tensor_type)
        if tensor.name.endswith(("attn_q.weight", "attn_k.weight")):
            values = _half_split(values, heads if "attn_q" in tensor.name else kv_heads)
        weights[_published(tensor.name)] = torch.from_numpy(values.astype(np.float16))
    config = {
        "model_type": "llama",
        "vocab_size": len(weights["model.embed_tokens.weight"]),
        "hidden_size": int(number("embedding_length")),
        "num_hidden_layers": int(number("block_count")),
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "intermediate_size": int(number("feed_forward_length")),
        "max_position_embeddings": int(number("context_length")),
        "rms_norm_eps": number("attention.layer_norm_rms_epsilon"),
        "rope_theta": number("rope.freq_base"),
    }
    save_file(weights, folder / "model.safetensors")
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes for the owner alone
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")


def _write_tokenizer(file: Path, folder: Path) -> None:
    from transformers import AutoTokenizer  # seconds to import, and needed once

    tokenizer = AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))


def _half_split(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of published models' rotation; GGUF keeps the pairs side by side."""
    pairs = values.reshape(heads, values.shape[0] // heads // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _published(gguf_name: str) -> str:
    stem, _, kind = gguf_name.rpartition(".")
    if not stem.startswith("blk."):
        return f"model.{NAMES.get(stem, stem)}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"model.layers.{layer}.{NAMES.get(part, part)}.{kind}"
