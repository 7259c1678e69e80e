"""Trained weights to the folder that the service loads: one ONNX graph and its manifest.

Owns the export and its check: ONNX Runtime must give what PyTorch gives, or nothing is
written. Runs at install and at image build, never when a service starts. Called by
`ssjf predictor build`.
"""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch

from predictor_svc.model_dir import GRAPH, MANIFEST, TOKENIZER, Manifest
from predictor_svc.training.model import ProxyModel, pad
from predictor_svc.training.weights import Trained

OPSET = 18
INPUTS = {"input_ids": ("batch", "length"), "attention_mask": ("batch", "length")}
MAX_DIFFERENCE = 1e-3
"""Largest allowed difference of a logit between PyTorch and ONNX Runtime."""


class ParityError(Exception):
    """The exported graph computes something else than the model."""


def build(trained: Trained, out: Path) -> Manifest:
    """Exports the model, with its adapters merged, to the folder `out`; returns its manifest.

    Files are replaced one by one, the manifest last, each by a rename. Raises
    ParityError, with `out` untouched, where the graph is wrong.
    """
    model = trained.model.eval()
    model.backbone.merge()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".build-") as scratch:
        graph = Path(scratch) / GRAPH
        with _without_chatter():
            _export(model, graph)
        _check_parity(model, graph)
        manifest = _manifest(trained, graph)
        shutil.copyfile(trained.tokenizer, Path(scratch) / TOKENIZER)
        (Path(scratch) / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        for name in (GRAPH, TOKENIZER, MANIFEST):
            (Path(scratch) / name).replace(out / name)
    return manifest


def _export(model: ProxyModel, path: Path) -> None:
    """Writes the graph, weights inside, both axes dynamic."""
    ids, mask = pad([[101, 2000, 2001, 2002, 102], [101, 2003, 102]])
    axes = {"batch": torch.export.Dim("batch"), "length": torch.export.Dim("length")}
    shapes = {name: {0: axes["batch"], 1: axes["length"]} for name in INPUTS}
    torch.onnx.export(
        model,
        (ids, mask),
        path,
        dynamo=True,
        opset_version=OPSET,
        input_names=list(INPUTS),
        output_names=["logits"],
        dynamic_shapes=shapes,
        external_data=False,
        verbose=False,
    )


def _check_parity(model: ProxyModel, graph: Path) -> None:
    """Runs both on a few shapes, the exported one and others, padding included."""
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    draw = np.random.default_rng(0)
    words, longest = model.backbone.shape.vocabulary, model.backbone.shape.positions
    for lengths in ((1,), (7, 3), (16, 128, 2), (min(200, longest),)):
        ids, mask = pad([draw.integers(0, words, size=min(n, longest)).tolist() for n in lengths])
        with torch.no_grad():
            wanted = model(ids, mask).numpy()
        feeds = {"input_ids": ids.numpy(), "attention_mask": mask.numpy()}
        difference = float(np.abs(session.run(None, feeds)[0] - wanted).max())
        if not difference <= MAX_DIFFERENCE:
            raise ParityError(
                f"ONNX Runtime and PyTorch differ by {difference:.2g} on lengths {lengths}; "
                f"allowed is {MAX_DIFFERENCE}"
            )


def _manifest(trained: Trained, graph: Path) -> Manifest:
    stored = onnx.load(graph, load_external_data=False)
    opset = next(each.version for each in stored.opset_import if each.domain == "")
    bins = str(trained.config.bin_count)
    return Manifest(
        revision=trained.revision,
        config=trained.config,
        opset=opset,
        inputs=dict(INPUTS),
        outputs={"logits": ("batch", bins)},
    )


@contextmanager
def _without_chatter() -> Iterator[None]:
    """The exporter prints its own progress and warns about its own future."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


__all__ = ["ParityError", "build"]
