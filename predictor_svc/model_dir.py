"""What an exported model's folder holds: graphs, `tokenizer.json`, `model.json`.

Owns the two small JSON files: the configuration that travels with trained weights, and
the manifest that `ssjf predictor export` writes beside the graphs, one a precision. Reads
and checks them, and the files they name; knows neither torch nor ONNX Runtime. Called by
the service and by `training`.
"""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from predictor_svc.encoder import InputForm
from predictor_svc.outputs import Output

Precision = Literal["fp32", "fp16", "int8"]
TOKENIZER = "tokenizer.json"
MANIFEST = "model.json"
EXPORT_COMMAND = "ssjf predictor export"


class ModelDirError(Exception):
    """A model's folder cannot be served; one line that says what to do."""


class ModelConfig(BaseModel):
    """What the network reads, and what the numbers that it gives mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """Name of the training task."""
    llm: str
    """The LLM whose lengths were learnt; "several" for more than one, empty where unknown."""
    input: InputForm
    output: Output


class StoredFile(BaseModel):
    """A file of the folder, and what is in it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^[^/\\]+$")]
    """Its name in the folder."""
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    """Digest of its bytes."""


class Manifest(BaseModel):
    """`model.json`: what was exported, from what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str = Field(min_length=8)
    """Changes with the weights or their configuration."""
    config: ModelConfig
    opset: int
    inputs: dict[str, tuple[str, ...]]
    """Shape of each input of the graphs; names are dynamic axes."""
    outputs: dict[str, tuple[str, ...]]
    graphs: dict[Precision, StoredFile] = Field(min_length=1)
    """The same network, by the precision of its weights."""
    cpu_precision: Precision
    """What to run on a CPU: the fastest that predicts as well."""
    tokenizer: StoredFile

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> Manifest:
        if self.cpu_precision not in self.graphs:
            raise ValueError(f"cpu_precision: there is no {self.cpu_precision} graph")
        return self


@dataclass(frozen=True, slots=True)
class ModelDir:
    """A folder whose manifest and tokenizer were found whole."""

    folder: Path
    tokenizer: Path
    manifest: Manifest

    def graph(self, precision: Precision) -> Path:
        """The graph of one precision, its bytes checked.

        Raises ModelDirError where there is none, or its file is missing or damaged.
        """
        stored = self.manifest.graphs.get(precision)
        if stored is None:
            there = ", ".join(self.manifest.graphs)
            raise ModelDirError(
                f"no {precision} graph in {self.folder}, only {there}: run `{EXPORT_COMMAND}`"
            )
        return checked_file(self.folder, stored)


def default_model_dir() -> Path:
    """Where `ssjf predictor export` puts the model of this environment."""
    return Path(sys.prefix) / "share" / "ssjf" / "predictor"


def open_model_dir(folder: Path) -> ModelDir:
    """The folder's manifest and tokenizer. Raises ModelDirError where either is not whole."""
    if not (folder / MANIFEST).is_file():
        raise ModelDirError(f"no {MANIFEST} in {folder}: run `{EXPORT_COMMAND}`")
    manifest = read_json(folder / MANIFEST, Manifest)
    return ModelDir(folder, checked_file(folder, manifest.tokenizer), manifest)


def checked_file(folder: Path, stored: StoredFile) -> Path:
    """Its path. Raises ModelDirError where it is missing, or other bytes than were exported."""
    path = folder / stored.file
    try:
        digest = sha256(path)
    except FileNotFoundError:
        raise ModelDirError(f"no {stored.file} in {folder}: run `{EXPORT_COMMAND}`") from None
    except OSError as error:
        raise ModelDirError(f"{path}: {error.strerror}") from error
    if digest != stored.sha256:
        raise ModelDirError(f"{path} is damaged (its SHA-256 differs): run `{EXPORT_COMMAND}`")
    return path


def sha256(path: Path) -> str:
    """Digest of a file's bytes, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


M = TypeVar("M", bound=BaseModel)


def read_json(path: Path, kind: type[M]) -> M:
    """The file as a `kind`. Raises ModelDirError naming the first wrong key."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ModelDirError(f"{path}: {error.strerror}") from error
    except pydantic.ValidationError as error:
        problem = error.errors()[0]
        key = ".".join(str(part) for part in problem["loc"]) or "content"
        raise ModelDirError(f"{path}: {key}: {problem['msg']}") from error
