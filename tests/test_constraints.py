"""constraints.txt pins what pyproject.toml asks for, and nothing that contradicts it."""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]


def direct() -> Sequence[Requirement]:
    """Every dependency that pyproject.toml names, in all extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    parsed = [Requirement(text) for group in groups for text in group]
    return [requirement for requirement in parsed if requirement.name != project["name"]]


@pytest.fixture(scope="module")
def pins() -> dict[str, str]:
    """Package name → pinned version."""
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pairs = [line.partition("==") for line in lines if not line.startswith("#")]
    assert all(separator for _, separator, _ in pairs)
    return {canonicalize_name(name): version for name, _, version in pairs}


@pytest.mark.parametrize("requirement", direct(), ids=str)
def test_every_direct_dependency_is_pinned_within_its_range(
    requirement: Requirement, pins: dict[str, str]
) -> None:
    pinned = pins[canonicalize_name(requirement.name)]
    assert requirement.specifier.contains(pinned, prereleases=True)
