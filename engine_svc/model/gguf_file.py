"""Reads a model's shape and weights from a GGUF file.

transformers reads such files, too, but parses the whole vocabulary several times on
the way, which makes a start several times as long. The tensors come out bit for bit the
same: the `gguf` package dequantises in both cases. Called by `loading`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from gguf import GGUFReader, dequantize
from torch import Tensor

from engine_svc.model import families
from engine_svc.model.config import ModelConfig, Rope, Traits, UnsupportedModel
from engine_svc.model.yarn import yarn_magnitude

NAMES: Final = {
    "token_embd": "model.embed_tokens",
    "output_norm": "model.norm",
    "output": "lm_head",
    "attn_norm": "input_layernorm",
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_q_norm": "self_attn.q_norm",
    "attn_k_norm": "self_attn.k_norm",
    "attn_output": "self_attn.o_proj",
    "ffn_norm": "post_attention_layernorm",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
}
"""Name in GGUF → name in transformers, without layer and `.weight`."""


class _Reader(GGUFReader):
    """Reads through a plain array: slicing a memmap a million times takes seconds."""

    @property  # type: ignore[override]
    def data(self) -> np.ndarray:
        """The bytes of the file."""
        return self._data

    @data.setter
    def data(self, mapped: np.ndarray) -> None:
        self._data = np.asarray(mapped)


class GGUFFile:
    """An opened file. Raises whatever the reader raises where it is no sound GGUF."""

    def __init__(self, path: Path) -> None:
        self._reader = _Reader(path)
        self._names = {tensor.name for tensor in self._reader.tensors}
        self._family = families.of_gguf(str(self._field("general.architecture")))

    def config(self) -> ModelConfig:
        """The model's shape. Raises UnsupportedModel."""
        heads = int(self._number("attention.head_count"))
        hidden_size = int(self._number("embedding_length"))
        layers = int(self._number("block_count"))
        return ModelConfig(
            family=self._family.name,
            vocabulary_size=len(self._reader.fields["tokenizer.ggml.tokens"].data),
            layers=layers,
            hidden_size=hidden_size,
            intermediate_size=int(self._number("feed_forward_length")),
            heads=heads,
            kv_heads=int(self._number("attention.head_count_kv", heads)),
            head_size=int(self._number("attention.key_length", hidden_size // heads)),
            norm_eps=float(self._number("attention.layer_norm_rms_epsilon")),
            context_tokens=int(self._number("context_length")),
            tied_embeddings="output.weight" not in self._names,
            rope=self._rope(),
            traits=self._traits(layers),
        )

    def eos_token_ids(self) -> frozenset[int]:
        """Tokens that end an answer."""
        keys = ("tokenizer.ggml.eos_token_id", "tokenizer.ggml.eot_token_id")
        return frozenset(int(found) for key in keys if (found := self._field(key)) is not None)

    def weights(self, config: ModelConfig) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, float32, under its name in transformers."""
        for tensor in self._reader.tensors:
            values = dequantize(tensor.data, tensor.tensor_type)
            part = tensor.name.split(".")[-2]
            if self._family.gguf_pairs_adjacent and part in ("attn_q", "attn_k"):
                values = _half_split(values, config.heads if part == "attn_q" else config.kv_heads)
            # A copy: the reader's arrays are views of the mapped file.
            yield _name(tensor.name), torch.from_numpy(np.array(values, dtype=np.float32))

    def _rope(self) -> Rope:
        theta = float(self._number("rope.freq_base", 10_000.0))
        kind = self._key("rope.scaling.type") or "none"
        factor = float(self._number("rope.scaling.factor", 1.0))
        if "rope_freqs.weight" in self._names:
            # How llama.cpp keeps Llama 3's scaling: worked out, pair by pair.
            (found,) = (t for t in self._reader.tensors if t.name == "rope_freqs.weight")
            return Rope(theta, kind="divided", divisors=tuple(float(x) for x in found.data))
        if kind == "none":
            return Rope(theta)
        if kind == "linear":
            return Rope(theta, kind=kind, factor=factor)
        if kind == "yarn":
            original = int(self._number("rope.scaling.original_context_length"))
            magnitude = yarn_magnitude({"factor": factor})
            return Rope(
                theta,
                kind=kind,
                factor=factor,
                original_context_tokens=original,
                magnitude=magnitude,
            )
        raise UnsupportedModel(f"rope scaling {kind} (GGUF) is not supported; linear, yarn are")

    def _traits(self, layers: int) -> Traits:
        window = self._key("attention.sliding_window")
        return Traits(
            qkv_bias="blk.0.attn_q.bias" in self._names,
            out_bias="blk.0.attn_output.bias" in self._names,
            mlp_bias="blk.0.ffn_down.bias" in self._names,
            qk_norm="blk.0.attn_q_norm.weight" in self._names,
            windows=(int(window),) * layers if window else (),
        )

    def _field(self, key: str) -> Any:
        field = self._reader.fields.get(key)
        return None if field is None else field.contents()

    def _key(self, key: str) -> Any:
        return self._field(f"{self._family.name}.{key}")

    def _number(self, key: str, default: float | None = None) -> float:
        value = self._key(key)
        found = default if value is None else value
        if found is None:
            raise KeyError(f"{self._family.name}.{key}")
        return float(found)


def _half_split(values: np.ndarray, heads: int) -> np.ndarray:
    """Rows in the order of Hugging Face's rope; GGUF keeps the pairs side by side."""
    size = values.shape[0] // heads // 2
    paired = values.reshape(heads, size, 2, *values.shape[1:])
    return paired.swapaxes(1, 2).reshape(values.shape)


def _name(gguf_name: str) -> str:
    stem, _, kind = gguf_name.rpartition(".")
    if not stem.startswith("blk."):
        return f"{NAMES.get(stem, stem)}.{kind}"
    _, layer, part = stem.split(".", 2)
    return f"model.layers.{layer}.{NAMES.get(part, part)}.{kind}"
