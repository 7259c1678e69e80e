"""Docker and Compose as commands: run them, ask for a container's state.

Owns how the images are built on this machine (base image, wheels) and how the
project is brought up and down. Knows nothing of gRPC. Used by the fixtures here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).parents[2]
SERVICES: Final = ("gateway", "predictor", "engine")
DEFAULT_BASE_IMAGE: Final = "python:3.11-slim-bookworm"
LOCAL_BASE_IMAGE: Final = "ssjf-base:bookworm"

PULL_TIMEOUT_S: Final = 120
BUILD_TIMEOUT_S: Final = 2400
UP_TIMEOUT_S: Final = 300
POLL_S: Final = 0.5

# Settings of pip that a container does not share with this machine.
MACHINE_PIP_KEYS: Final = ("index-url", "find-links", "no-index", "cert", "proxy", "trusted-host")


class CommandError(Exception):
    """A command ended with another code than 0; the message has its output."""


def run(
    command: Sequence[str | Path],
    *,
    timeout_s: float = 60,
    environment: Mapping[str, str] | None = None,
) -> str:
    """The command's stdout. Raises CommandError where it fails."""
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **(environment or {})},
        capture_output=True,
        text=True,
        timeout=timeout_s,
    )
    if done.returncode != 0:
        output = f"{done.stdout}\n{done.stderr}"[-8000:]
        raise CommandError(f"{' '.join(map(str, command))}: exit {done.returncode}\n{output}")
    return done.stdout


def works(command: Sequence[str | Path], timeout_s: float = 60) -> bool:
    """Whether the command is there and succeeds in time."""
    try:
        run(command, timeout_s=timeout_s)
    except (OSError, CommandError, subprocess.TimeoutExpired):
        return False
    return True


def compose_command() -> tuple[str, ...] | None:
    """`docker-compose`, or the plugin of the docker command, or None."""
    if shutil.which("docker-compose"):
        return ("docker-compose",)
    if works(["docker", "compose", "version"]):
        return ("docker", "compose")
    return None


def base_image() -> str:
    """The base image to build on: BASE_IMAGE, the default where it can be had, or our own."""
    if given := os.environ.get("BASE_IMAGE"):
        return given
    for image in (DEFAULT_BASE_IMAGE, LOCAL_BASE_IMAGE):
        if works(["docker", "image", "inspect", image]):
            return image
    if works(["docker", "pull", "--quiet", DEFAULT_BASE_IMAGE], PULL_TIMEOUT_S):
        return DEFAULT_BASE_IMAGE
    run(["tools/base-image", LOCAL_BASE_IMAGE], timeout_s=BUILD_TIMEOUT_S)
    return LOCAL_BASE_IMAGE


def machine_pip_settings() -> Sequence[str]:
    """Where this machine's pip finds packages, if not at the default place."""
    lines = run([sys.executable, "-m", "pip", "config", "list"]).splitlines()
    pairs = [line.partition("=")[::2] for line in lines]
    values = [value.strip("'").split() for key, value in pairs if key.endswith(MACHINE_PIP_KEYS)]
    return [part for value in values for part in value]


def fill_wheelhouse() -> None:
    """Fetches the images' wheels here where a container could not."""
    if machine_pip_settings():
        run(
            ["tools/wheelhouse"],
            timeout_s=BUILD_TIMEOUT_S,
            environment={"PYTHON": sys.executable},
        )


@dataclass(frozen=True, slots=True)
class Project:
    """The Compose project under a name of its own."""

    command: tuple[str, ...]
    name: str
    environment: Mapping[str, str]

    def compose(self, *arguments: str, timeout_s: float = 120) -> str:
        """Output of a Compose command for this project."""
        command = [*self.command, "--project-name", self.name, *arguments]
        return run(command, timeout_s=timeout_s, environment=self.environment)

    def up(self) -> None:
        """Starts the services and returns when all are healthy."""
        self.compose("up", "--detach", timeout_s=UP_TIMEOUT_S)
        self.wait_healthy()

    def scale(self, service: str, containers: int) -> list[str]:
        """Runs so many containers of a service; their ids. Returns once they are healthy."""
        of_service = f"{service}={containers}"
        self.compose(
            *("up", "--detach", "--no-recreate", "--scale", of_service), timeout_s=UP_TIMEOUT_S
        )
        ids = self.compose("ps", "--quiet", service).split()
        self._wait_healthy(ids)
        return ids

    def wait_healthy(self, *services: str) -> None:
        """Returns when these services, or all, are healthy. Raises TimeoutError with the logs."""
        names = services or SERVICES
        self._wait_healthy(self.compose("ps", "--all", "--quiet", *names).split())

    def _wait_healthy(self, containers: Sequence[str]) -> None:
        give_up = time.monotonic() + UP_TIMEOUT_S
        while {_container(each)["State"]["Health"]["Status"] for each in containers} != {"healthy"}:
            if time.monotonic() > give_up:
                raise TimeoutError(self.compose("logs", "--tail=40"))
            time.sleep(POLL_S)

    def down(self) -> None:
        """Stops and removes everything of the project but the images."""
        self.compose("down", "--volumes", "--remove-orphans", timeout_s=UP_TIMEOUT_S)

    def inspect(self, service: str) -> Any:
        """The service's container as `docker inspect` shows it."""
        return _container(self.compose("ps", "--all", "--quiet", service).strip())

    def execute(self, service: str, *command: str) -> str:
        """Output of a command inside the service's container. Raises CommandError."""
        return self.compose("exec", "-T", service, *command)

    def gateway_address(self) -> str:
        """``host:port`` of the gateway on this machine."""
        return self.compose("port", "gateway", "50051").strip()

    def leftovers(self) -> Sequence[str]:
        """Ids of the project's containers, networks and volumes."""
        label = f"label=com.docker.compose.project={self.name}"
        kinds = (["ps", "--all"], ["network", "ls"], ["volume", "ls"])
        listed = [run(["docker", *kind, "--quiet", "--filter", label]) for kind in kinds]
        return "".join(listed).split()


def _container(identifier: str) -> Any:
    return json.loads(run(["docker", "inspect", identifier]))[0]
