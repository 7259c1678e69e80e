"""What is kept of a trained model: what training changed of its backbone, and the head.

Owns the two files, `weights.safetensors` (fp16) and `config.json`, their reading, and
the revision that names them. Called by `train`, `evaluate` and `export`.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from predictor_svc.model_dir import ModelConfig, ModelDirError, read_json
from predictor_svc.training.backbone import backbone_folder, load_backbone
from predictor_svc.training.model import ProxyModel, ProxyShape

WEIGHTS = "weights.safetensors"
CONFIG = "config.json"
SHAPE = "shape"


@dataclass(frozen=True, slots=True)
class Trained:
    """A model in evaluation mode, adapters still apart, and what its outputs mean."""

    model: ProxyModel
    config: ModelConfig
    revision: str
    tokenizer: Path


def shipped_folder() -> Path:
    """The weights that come with the package."""
    return Path(__file__).resolve().parent.parent / "weights"


def save_weights(model: ProxyModel, config: ModelConfig, folder: Path) -> None:
    """Writes what training changed, as fp16, and the configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    tensors = {
        name: value.detach().to("cpu", torch.float16).contiguous()
        for name, value in model.trained_parameters().items()
    }
    save_file(tensors, folder / WEIGHTS, metadata={SHAPE: model.shape.model_dump_json()})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes for the owner alone
    (folder / CONFIG).write_text(config.model_dump_json(indent=1) + "\n")


def load_trained(folder: Path, backbone: Path | None = None) -> Trained:
    """The backbone that the weights name, or that in the folder `backbone`, with them over it.

    Raises ModelDirError where a file is missing, broken, or of another backbone.
    """
    config = read_json(folder / CONFIG, ModelConfig)
    path = folder / WEIGHTS
    try:
        with safe_open(path, framework="pt") as file:
            shape = _shape(path, file.metadata() or {})
            tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelDirError(f"{path}: {error}") from error
    backbone = backbone or backbone_folder(shape.backbone)
    model = ProxyModel(load_backbone(backbone), shape)
    wanted = model.trained_parameters()
    if {name: value.shape for name, value in wanted.items()} != {
        name: value.shape for name, value in tensors.items()
    }:
        raise ModelDirError(f"{path}: its tensors do not fit the backbone in {backbone}")
    model.load_state_dict(tensors, strict=False)
    model.eval()
    return Trained(model, config, revision(folder), backbone / "tokenizer.json")


def revision(folder: Path) -> str:
    """A name that changes with the weights or the configuration: 16 hex digits of SHA-256."""
    digest = hashlib.sha256()
    for name in (WEIGHTS, CONFIG):
        digest.update((folder / name).read_bytes())
    return digest.hexdigest()[:16]


def _shape(path: Path, metadata: dict[str, str]) -> ProxyShape:
    try:
        return ProxyShape.model_validate_json(metadata[SHAPE])
    except (KeyError, ValidationError) as error:
        raise ModelDirError(f"{path}: its metadata has no valid {SHAPE!r}") from error
