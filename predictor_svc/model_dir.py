"""What an exported model's folder holds: `model.onnx`, `tokenizer.json`, `model.json`.

Owns the two small JSON files: the configuration that travels with trained weights, and
the manifest that `ssjf predictor build` writes beside the graph. Reads and checks them;
knows neither torch nor ONNX Runtime. Called by `__main__` and by `training`.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, TypeVar

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from predictor_svc.lengths import LengthBins

GRAPH = "model.onnx"
TOKENIZER = "tokenizer.json"
MANIFEST = "model.json"
BUILD_COMMAND = "ssjf predictor build"


class ModelDirError(Exception):
    """A model's folder cannot be served; one line that says what to do."""


class ModelConfig(BaseModel):
    """What the numbers that the network gives mean."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    task: str
    """Name of the training task."""
    llm: str
    """The LLM whose lengths were learnt."""
    max_input_tokens: int = Field(ge=8, le=8192)
    """Tokens of a prompt that the network reads: the last ones."""
    bin_count: int = Field(ge=3, le=4096)
    top_tokens: int = Field(ge=2)
    beyond_tokens: int = Field(ge=2)
    rank_values: tuple[Annotated[float, Field(ge=0, le=1)], ...]
    """Share of training lengths below each bin: the rank score is its mean."""
    quantiles: tuple[Annotated[float, Field(gt=0, lt=1)], ...]
    """Probabilities of the quantiles that are answered, rising."""

    @pydantic.model_validator(mode="after")
    def _consistent(self) -> ModelConfig:
        if len(self.rank_values) != self.bin_count:
            raise ValueError("rank_values: one for each bin")
        if list(self.quantiles) != sorted(set(self.quantiles)):
            raise ValueError("quantiles: must rise")
        return self

    @property
    def bins(self) -> LengthBins:
        """The bins of the network's outputs."""
        return LengthBins(self.bin_count, self.top_tokens, self.beyond_tokens)


class Manifest(BaseModel):
    """`model.json`: what was built, from what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    revision: str = Field(min_length=8)
    """Changes with the weights or their configuration."""
    config: ModelConfig
    opset: int
    inputs: dict[str, tuple[str, ...]]
    """Shape of each input of the graph; names are dynamic axes."""
    outputs: dict[str, tuple[str, ...]]


@dataclass(frozen=True, slots=True)
class ModelDir:
    """A folder that was found complete."""

    graph: Path
    tokenizer: Path
    manifest: Manifest


def default_model_dir() -> Path:
    """Where `ssjf predictor build` puts the model of this environment."""
    return Path(sys.prefix) / "share" / "ssjf" / "predictor"


def open_model_dir(folder: Path) -> ModelDir:
    """Checks that the folder is complete. Raises ModelDirError where it is not."""
    for name in (MANIFEST, GRAPH, TOKENIZER):
        if not (folder / name).is_file():
            raise ModelDirError(f"no {name} in {folder}: run `{BUILD_COMMAND}`")
    manifest = read_json(folder / MANIFEST, Manifest)
    return ModelDir(folder / GRAPH, folder / TOKENIZER, manifest)


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
