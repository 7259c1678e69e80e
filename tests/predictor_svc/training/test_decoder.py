from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer
from torch import Tensor

from predictor_svc.encoder import InputForm, PromptText, load_encoder
from predictor_svc.training.backbone import layout_of, load_backbone, packaged_folder
from predictor_svc.training.decoder import Decoder, decoder_shape


def inputs() -> tuple[Tensor, Tensor]:
    torch.manual_seed(3)
    ids = torch.randint(10, 200, (3, 24))
    mask = torch.ones_like(ids)
    mask[1, 9:] = 0
    return ids, mask


def test_the_decoder_computes_what_transformers_computes(tiny_decoder: Path) -> None:
    from transformers import LlamaModel

    ids, mask = inputs()
    reference = LlamaModel.from_pretrained(tiny_decoder)
    reference.train(mode=False)
    with torch.no_grad():
        wanted = reference(ids, attention_mask=mask).last_hidden_state
        found = load_backbone(tiny_decoder).eval()(ids, mask)
    assert (wanted - found)[mask.bool()].abs().max() < 1e-5


def test_what_comes_later_changes_nothing_before(tiny_decoder: Path) -> None:
    backbone = load_backbone(tiny_decoder).eval()
    ids, mask = inputs()
    with torch.no_grad():
        whole = backbone(ids, mask)
        ids[:, 12:] = 5
        torch.testing.assert_close(backbone(ids, mask)[:, :12], whole[:, :12])


def test_the_packaged_model_is_whole_and_reads_as_it_was_taught() -> None:
    folder = packaged_folder("smollm2")
    backbone = load_backbone(folder).eval()
    assert isinstance(backbone, Decoder)
    form = InputForm(layout="chat", marks="role", max_tokens=64)
    encoder = load_encoder(folder / "tokenizer.json", form)
    (ids,) = encoder.encode([PromptText("What is the capital of France?")])
    asked = len(ids)
    for _ in range(7):  # its output layer is the embedding
        with torch.no_grad():
            states = backbone(torch.tensor([ids]), torch.ones(1, len(ids), dtype=torch.int64))
        ids.append(int((backbone.words.weight @ states[0, -1]).argmax()))
    answer = Tokenizer.from_file(str(folder / "tokenizer.json")).decode(ids[asked:])
    assert answer == "The capital of France is Paris."


def test_only_adapters_and_the_layers_norms_are_trained(tiny_decoder: Path) -> None:
    backbone = load_backbone(tiny_decoder)
    backbone.adapt(2)
    trained = {name for name, value in backbone.named_parameters() if value.requires_grad}
    assert len([name for name in trained if "lora_a" in name]) == 7 * len(backbone.layers)
    assert all("lora_" in name or "norm." in name for name in trained)
    assert {name.split(".")[0] for name in trained} == {"layers"}


@pytest.mark.parametrize(
    "changes",
    [
        {"rope_scaling": {"rope_type": "llama3", "factor": 8.0}, "rope_parameters": None},
        {"attention_bias": True},
        {"mlp_bias": True},
        {"head_dim": 24},
    ],
)
def test_what_it_would_compute_wrongly_is_refused(
    changes: dict[str, Any], tiny_decoder: Path
) -> None:
    config = json.loads((tiny_decoder / "config.json").read_text())
    assert decoder_shape(config).kv_heads == 2
    with pytest.raises(ValueError, match="not supported"):
        decoder_shape(config | changes)


def test_a_model_of_another_kind_is_refused(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "gpt2"}')
    for read in (layout_of, load_backbone):
        with pytest.raises(ValueError, match="type 'gpt2'; supported are bert, llama"):
            read(tmp_path)
