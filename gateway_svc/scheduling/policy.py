"""What a scheduling policy is, and the registry of them.

A policy is one file under `policies/` with a class that `register` names; nothing
else has to know it. It gives each waiting job a key; the smallest goes first, ties
by arrival. Priority classes stand above every policy and are the core's.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from gateway_svc.scheduling import policies
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.job import Job


class Policy(Protocol):
    """Orders waiting jobs."""

    def key(self, job: Job) -> float:
        """The job's place in its class; smaller goes first. Recomputed on every reprice."""


@dataclass(frozen=True, slots=True)
class PolicyOptions:
    """What a policy may be built from."""

    step_model: StepModel = field(default_factory=StepModel)
    oracle_lengths: Mapping[str, int] | None = None
    """True output tokens by request id; benchmarks only."""


PolicyFactory = Callable[[PolicyOptions], Policy]
_FACTORIES: dict[str, PolicyFactory] = {}


def register(name: str) -> Callable[[type], type]:
    """Registers a policy class, built from one `PolicyOptions`, under `name`."""

    def add(factory: type) -> type:
        _FACTORIES[name] = factory
        return factory

    return add


def names() -> tuple[str, ...]:
    """The registered names, in alphabetical order."""
    _import_all()
    return tuple(sorted(_FACTORIES))


def create(name: str, options: PolicyOptions | None = None) -> Policy:
    """The policy of that name. Raises ValueError naming those there are."""
    _import_all()
    if name not in _FACTORIES:
        raise ValueError(f"unknown policy {name!r}; there are: {', '.join(names())}")
    return _FACTORIES[name](options or PolicyOptions())


def _import_all() -> None:
    for module in pkgutil.iter_modules(policies.__path__):
        importlib.import_module(f"{policies.__name__}.{module.name}")
