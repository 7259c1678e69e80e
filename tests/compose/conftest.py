"""Fixtures of the Compose tests: the project, built, up and healthy."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from tests.compose.project import (
    BUILD_TIMEOUT_S,
    Project,
    base_image,
    compose_command,
    fill_wheelhouse,
    works,
)


@pytest.fixture(scope="session")
def compose() -> tuple[str, ...]:
    """The Compose command of this machine."""
    command = compose_command()
    if command is None:
        pytest.skip("neither docker-compose nor `docker compose` is installed")
    return command


@pytest.fixture(scope="session")
def project(compose: tuple[str, ...]) -> Iterator[Project]:
    """The three services from freshly built images, healthy; removed afterwards."""
    if not works(["docker", "info"]):
        pytest.skip("no Docker engine answers (`docker info` fails)")
    fill_wheelhouse()
    environment = {"BASE_IMAGE": base_image(), "SSJF_PORT": "0"}
    project = Project(compose, f"ssjf-test-{os.getpid()}", environment)
    project.compose("build", timeout_s=BUILD_TIMEOUT_S)
    try:
        project.up()
        yield project
    finally:
        project.down()
    assert project.leftovers() == []
