"""Trained weights to the folder that the service loads: ONNX graphs and their manifest.

Owns the folder: every graph is checked against PyTorch before any file appears, an old
manifest never points at new bytes, and the manifest comes last. Runs at install and at
image build, never when a service starts. Called by `ssjf predictor export`.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

from predictor_svc.model_dir import MANIFEST, TOKENIZER, Manifest, Precision, StoredFile, sha256
from predictor_svc.training import graphs
from predictor_svc.training.graphs import PRECISIONS
from predictor_svc.training.parity import ParityError, Reference
from predictor_svc.training.weights import Trained

FLOATS: dict[Precision, torch.dtype] = {"fp32": torch.float32, "fp16": torch.float16}
# Measured with MiniLM-L6 at 128 tokens on two cores with VNNI: int8 takes half the time of
# fp32 and ranks as well (docs/predictor.md); CPUs compute fp16 by way of fp32.
CPU_PREFERENCE: tuple[Precision, ...] = ("int8", "fp32", "fp16")


def export(trained: Trained, out: Path, precisions: Sequence[Precision] | None = None) -> Manifest:
    """Writes the model, its adapters merged, to the folder `out`; returns the manifest.

    One file a precision, by default each that the model can have. Files are replaced one by
    one, the manifest last, each by a rename; graphs that it does not name are removed. Raises
    ParityError, with `out` untouched, where a graph is wrong, and ValueError for no precisions or
    one that the model cannot have.
    """
    possible = graphs.precisions_of(trained.model)
    precisions = possible if precisions is None else precisions
    if not precisions:
        raise ValueError("precisions: at least one")
    if not set(precisions) <= set(possible):
        raise ValueError(f"precisions: of this model there are {', '.join(possible)}")
    trained.model.eval()
    trained.model.backbone.merge()
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out, prefix=".export-") as folder:
        scratch = Path(folder)
        written = _write_graphs(trained, scratch, precisions)
        shutil.copyfile(trained.tokenizer, scratch / TOKENIZER)
        manifest = _manifest(trained, written, _stored(scratch / TOKENIZER))
        (scratch / MANIFEST).write_text(manifest.model_dump_json(indent=1) + "\n")
        named = {stored.file for stored in written.values()}
        for name in (*named, TOKENIZER, MANIFEST):
            (scratch / name).replace(out / name)
    for stale in out.glob("model*.onnx"):
        if stale.name not in named:
            stale.unlink()
    return manifest


def _write_graphs(
    trained: Trained, scratch: Path, precisions: Sequence[Precision]
) -> dict[Precision, StoredFile]:
    """Graphs, checked, under names that change with their bytes."""
    reference = Reference(trained)
    written: dict[Precision, StoredFile] = {}
    for precision in (each for each in PRECISIONS if each in precisions):
        path = scratch / f"{precision}.onnx"
        if precision == "int8":
            graphs.write_int8(trained.model, path)
        else:
            graphs.write_float(trained.model, path, FLOATS[precision])
        graphs.describe(path, _facts(trained, precision))
        reference.check(path, precision)
        digest = sha256(path)
        path = path.replace(scratch / f"model.{precision}.{digest[:12]}.onnx")
        written[precision] = StoredFile(file=path.name, sha256=digest)
    return written


def _facts(trained: Trained, precision: Precision) -> dict[str, str]:
    """What a graph says of itself."""
    return {
        "revision": trained.revision,
        "task": trained.config.task,
        "llm": trained.config.llm,
        "precision": precision,
        "opset": str(graphs.OPSET),
        "inputs": json.dumps(graphs.INPUTS),
        "outputs": json.dumps(_outputs(trained)),
        "max_tokens": str(trained.config.input.max_tokens),
    }


def _manifest(
    trained: Trained, written: dict[Precision, StoredFile], tokenizer: StoredFile
) -> Manifest:
    return Manifest(
        revision=trained.revision,
        config=trained.config,
        opset=graphs.OPSET,
        inputs=dict(graphs.INPUTS),
        outputs=_outputs(trained),
        graphs=written,
        cpu_precision=next(each for each in CPU_PREFERENCE if each in written),
        tokenizer=tokenizer,
    )


def _outputs(trained: Trained) -> dict[str, tuple[str, ...]]:
    return {graphs.OUTPUT: ("batch", str(trained.config.output.width))}


def _stored(path: Path) -> StoredFile:
    return StoredFile(file=path.name, sha256=sha256(path))


__all__ = ["PRECISIONS", "ParityError", "export"]
