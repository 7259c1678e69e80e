"""The registry of tasks. Adding one is a file here and a line in `TASKS`."""

from __future__ import annotations

from typing import Any

from predictor_svc.training.task import Task
from predictor_svc.training.tasks.classes import Classes, Ordinal
from predictor_svc.training.tasks.distribution import Distribution
from predictor_svc.training.tasks.pairwise import Pairwise
from predictor_svc.training.tasks.regression import Regression

BINARY = (0.5, 0.99)
"""Percentiles that bound the classes of the SSJF paper's "binary" task: short, long, and
the outliers above the 99th."""
MULTICLASS = (0.25, 0.5, 0.75, 0.99)

TASKS: dict[str, Task[Any]] = {
    "regression-l1": Regression("l1"),
    "regression-mse": Regression("mse"),
    "binary": Classes(BINARY),
    "multiclass": Classes(MULTICLASS),
    "ordinal-binary-l1": Ordinal(BINARY, "l1"),
    "ordinal-binary-mse": Ordinal(BINARY, "mse"),
    "ordinal-multiclass-l1": Ordinal(MULTICLASS, "l1"),
    "ordinal-multiclass-mse": Ordinal(MULTICLASS, "mse"),
    "pairwise": Pairwise(),
    "distribution": Distribution(),
}
