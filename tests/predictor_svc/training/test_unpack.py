from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGUFWriter
from safetensors.torch import load_file

from predictor_svc.training import unpack
from predictor_svc.training.decoder import decoder_shape, load_decoder
from predictor_svc.training.unpack import unpacked

HEADS, KV_HEADS, WIDTH, HIDDEN, WORDS = 2, 1, 8, 12, 20
MATRICES = {
    "blk.0.attn_q": (WIDTH, WIDTH),
    "blk.0.attn_k": (WIDTH // 2, WIDTH),
    "blk.0.attn_v": (WIDTH // 2, WIDTH),
    "blk.0.attn_output": (WIDTH, WIDTH),
    "blk.0.ffn_gate": (HIDDEN, WIDTH),
    "blk.0.ffn_up": (HIDDEN, WIDTH),
    "blk.0.ffn_down": (WIDTH, HIDDEN),
    "token_embd": (WORDS, WIDTH),
}
NORMS = ("blk.0.attn_norm", "blk.0.ffn_norm", "output_norm")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A GGUF file of one layer; its tokenizer is transformers' affair."""

    def write_tokenizer(_file: Path, folder: Path) -> None:
        (folder / "tokenizer.json").write_text("{}")

    monkeypatch.setattr(unpack, "_write_tokenizer", write_tokenizer)
    return write(tmp_path / "tiny.gguf")


def write(path: Path, name: str = "llama") -> Path:
    writer = GGUFWriter(path, name)
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(WIDTH)
    writer.add_feed_forward_length(HIDDEN)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_rope_freq_base(500.0)
    for name, shape in MATRICES.items():
        numbers = np.arange(np.prod(shape), dtype=np.float32).reshape(shape)
        writer.add_tensor(f"{name}.weight", numbers)
    for name in NORMS:
        writer.add_tensor(f"{name}.weight", np.ones(WIDTH, dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def test_the_folder_is_one_that_can_be_loaded(file: Path, tmp_path: Path) -> None:
    folder = unpacked(file, tmp_path / "backbones")
    config = json.loads((folder / "config.json").read_text())
    shape = decoder_shape(config)
    assert (shape.width, shape.heads, shape.kv_heads, shape.rope_theta) == (8, 2, 1, 500.0)
    assert load_decoder(folder, config).words.weight[1, 0] == WIDTH


def test_rows_of_queries_and_keys_come_in_the_order_of_halves(file: Path, tmp_path: Path) -> None:
    stored = load_file(unpacked(file, tmp_path / "backbones") / "model.safetensors")
    prefix = "model.layers.0.self_attn"
    first = stored[f"{prefix}.q_proj.weight"][:, 0] / WIDTH
    assert first.tolist() == [0, 2, 1, 3, 4, 6, 5, 7]  # of each head: even rows, then odd ones
    assert (stored[f"{prefix}.k_proj.weight"][:, 0] / WIDTH).tolist() == [0, 2, 1, 3]
    assert (stored[f"{prefix}.v_proj.weight"][:, 0] / WIDTH).tolist() == [0, 1, 2, 3]
    assert {each.dtype for each in stored.values()} == {torch.float16}


def test_it_is_written_once(file: Path, tmp_path: Path) -> None:
    folder = unpacked(file, tmp_path / "backbones")
    (folder / "mark").touch()
    file.unlink()
    assert unpacked(file, tmp_path / "backbones") == folder
    assert (folder / "mark").exists()
    assert [each.name for each in (tmp_path / "backbones").iterdir()] == ["tiny"]


def test_one_that_another_process_wrote_meanwhile_is_taken(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_tokenizer(_file: Path, _folder: Path) -> None:
        (tmp_path / "backbones" / "tiny").mkdir()
        (tmp_path / "backbones" / "tiny" / "config.json").write_text("another's")

    monkeypatch.setattr(unpack, "_write_tokenizer", write_tokenizer)
    folder = unpacked(file, tmp_path / "backbones")
    assert (folder / "config.json").read_text() == "another's"


def test_another_kind_of_model_is_refused_and_leaves_nothing(file: Path, tmp_path: Path) -> None:
    write(file, "gpt2")
    with pytest.raises(ValueError, match="not a Llama model's"):
        unpacked(file, tmp_path / "backbones")
    assert list((tmp_path / "backbones").iterdir()) == []
