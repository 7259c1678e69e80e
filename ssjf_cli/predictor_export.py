"""`ssjf predictor export`: trained weights to the folder that the predictor serves.

Options and what is printed; the work is `predictor_svc.training.export`'s.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ssjf_cli.predictor_options import console, failing_cleanly


class PrecisionName(StrEnum):
    """Precisions that a graph can have."""

    fp32 = "fp32"
    fp16 = "fp16"
    int8 = "int8"


def export(
    model: Annotated[
        Path | None, typer.Option(help="Folder of weights; those shipped by default.")
    ] = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder; by default the one that the service reads.")
    ] = None,
    precision: Annotated[
        list[PrecisionName] | None,
        typer.Option(
            help="Of a graph; repeatable. By default all that the model can have: "
            "GPUs run fp16, CPUs int8 or fp32."
        ),
    ] = None,
) -> None:
    """Writes the served model: packaged backbone and weights to one ONNX file a precision.

    Each is checked against PyTorch first. A running predictor takes a new model over.
    """
    from predictor_svc.model_dir import ModelDirError, default_model_dir
    from predictor_svc.training.backbone import BackboneMissing
    from predictor_svc.training.export import PRECISIONS, ParityError
    from predictor_svc.training.export import export as write
    from predictor_svc.training.weights import load_trained, shipped_folder

    folder = out or default_model_dir()
    chosen = [one for one in PRECISIONS if one in precision] if precision else None
    with (
        failing_cleanly(ModelDirError, BackboneMissing, ParityError, ValueError, OSError),
        console.status("exporting the predictor"),
    ):
        trained = load_trained(model or shipped_folder())
        manifest = write(trained, folder, chosen)
    there = ", ".join(manifest.graphs)
    console.print(f"predictor {manifest.revision} ({there}) exported to {folder}", soft_wrap=True)
