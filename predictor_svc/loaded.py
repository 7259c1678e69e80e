"""A model that is ready to predict: its folder checked, its session warm, its thread.

Owns the way from a folder to an immutable loaded model, and every reason to refuse one:
files missing or damaged, another provider than asked for, outputs that are not finite.
Called by `__main__` at start and by `models` for a swap, in a thread.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from predictor_svc.encoder import Encoder, PromptText, load_encoder
from predictor_svc.model_dir import Manifest, ModelDir, ModelDirError, Precision, open_model_dir
from predictor_svc.session import (
    CUDA,
    Session,
    SessionError,
    SessionOptions,
    first_line,
    wanted_provider,
)

PrecisionChoice = Literal["auto", "fp32", "fp16", "int8"]
PROBE = (PromptText("Hello"), PromptText("Write an essay about the sea. " * 100))
"""Prompts, a short and a full one, whose outputs must be finite before a model serves."""

T = TypeVar("T")


class ModelRefused(Exception):
    """The folder's model cannot serve; one line that says why."""


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """What to load, and how to run it."""

    folder: Path
    precision: PrecisionChoice
    session: SessionOptions


@dataclass(frozen=True, slots=True, weakref_slot=True)
class LoadedModel:
    """One revision, warm; nothing of it changes."""

    manifest: Manifest
    precision: Precision
    encoder: Encoder
    session: Session
    worker: ThreadPoolExecutor
    """The one thread that runs the session."""
    fell_back: bool
    """Whether it runs on the CPU although ONNX Runtime was built for CUDA."""

    def encode(self, texts: Sequence[PromptText]) -> list[list[int]]:
        """Token ids of each text; from any thread."""
        return self.encoder.encode(texts)

    def run(self, ids: Sequence[Sequence[int]]) -> NDArray[np.floating]:
        """(n, width) outputs of n prompts; in `worker` alone."""
        return self.session.run(ids)

    def close(self) -> None:
        """Frees the session and ends its thread; once, from any thread, after the last run."""
        self.worker.submit(self.session.close).result()
        self.worker.shutdown()


def load(options: LoadOptions) -> LoadedModel:
    """Loads, checks and warms up the folder's model. Raises ModelRefused."""
    worker = ThreadPoolExecutor(1, "run")
    try:
        return _load(options, worker)
    except BaseException as error:
        worker.shutdown()
        if isinstance(error, ModelRefused):
            raise
        if isinstance(error, ModelDirError | SessionError):
            raise ModelRefused(str(error)) from error
        # Tokenizer and ONNX Runtime raise bare exceptions on files that they cannot read.
        if isinstance(error, Exception):
            raise ModelRefused(f"{options.folder}: {first_line(error)}") from error
        raise


def _load(options: LoadOptions, worker: ThreadPoolExecutor) -> LoadedModel:
    model = open_model_dir(options.folder)
    encoder = load_encoder(model.tokenizer, model.manifest.config.input)

    def in_worker(work: Callable[[], T]) -> T:
        return worker.submit(work).result()

    session, precision = in_worker(lambda: _warm_session(model, options))
    fell_back = session.fell_back
    if fell_back:  # to the CPU, with a graph chosen for CUDA
        on_cpu = replace(options, session=replace(options.session, provider="cpu"))
        session, precision = in_worker(lambda: _warm_session(model, on_cpu))
    loaded = LoadedModel(model.manifest, precision, encoder, session, worker, fell_back)
    _check_outputs(options.folder, loaded, in_worker(lambda: loaded.run(encoder.encode(PROBE))))
    return loaded


def _warm_session(model: ModelDir, options: LoadOptions) -> tuple[Session, Precision]:
    precision = choose_precision(
        options.precision, wanted_provider(options.session.provider), model.manifest
    )
    graph = model.graph(precision)
    max_tokens = model.manifest.config.input.max_tokens
    session = Session(graph, options.session, max_tokens)
    if session.fell_back:
        return session, precision
    try:
        session.warm_up()
    except SessionError:
        if not session.captures:
            raise
        # Some operators run on CUDA, but not inside a capture.
        session = Session(graph, replace(options.session, cuda_graphs=False), max_tokens)
        session.warm_up()
    return session, precision


def choose_precision(choice: PrecisionChoice, provider: str, manifest: Manifest) -> Precision:
    """The precision to run: on auto, fp16 on CUDA and what the export measured on a CPU."""
    if choice != "auto":
        return choice
    if provider == CUDA:
        return "fp16" if "fp16" in manifest.graphs else "fp32"
    return manifest.cpu_precision


def _check_outputs(folder: Path, loaded: LoadedModel, outputs: NDArray[np.floating]) -> None:
    width = loaded.manifest.config.output.width
    if outputs.shape[1] != width:
        raise ModelRefused(
            f"{folder}: the graph gives {outputs.shape[1]} numbers a prompt, not {width}"
        )
    if not np.isfinite(outputs).all():
        raise ModelRefused(f"{folder}: the model gives outputs that are not finite")
