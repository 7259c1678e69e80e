"""How the services refuse to start: the exit code and the one line."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.service

SERVICES = ("gateway_svc", "predictor_svc", "engine_svc")


@pytest.fixture
def taken_port() -> Iterator[int]:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        yield int(listener.getsockname()[1])


def start(service: str, *flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Runs a service that must end by itself."""
    return subprocess.run(
        [sys.executable, "-m", service, *flags],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **environment},
    )


def told(result: subprocess.CompletedProcess[str]) -> list[str]:
    """Lines on stderr that are neither JSON log lines nor the C core's own."""
    core = re.compile(r"[EWI]\d{4} ")
    lines = result.stderr.splitlines()
    return [line for line in lines if not (line.startswith("{") or core.match(line))]


@pytest.mark.parametrize("service", SERVICES)
def test_a_wrong_setting_is_named(service: str) -> None:
    result = start(service, "--port=99999")
    key = f"--port (SSJF_{service.removesuffix('_svc').upper()}_PORT)"
    (line,) = told(result)
    assert (result.returncode, line.startswith(f"{service}: {key}: ")) == (2, True)


@pytest.mark.parametrize(
    ("flags", "part"),
    [
        (["--policy=longest"], "--policy (SSJF_GATEWAY_POLICY)"),
        (["--policy=oracle"], "need --benchmark"),
        (["--policy=oracle", "--benchmark"], "needs --oracle-lengths"),
        (["--oracle-lengths=x.json"], "need --benchmark"),
        (["--engines=,"], "--engines (SSJF_GATEWAY_ENGINES)"),
        (["--engines=somewhere"], "'somewhere' is not host:port"),
        (["--prediction-budget-ms=nan"], "--prediction-budget-ms"),
    ],
)
def test_the_gateway_refuses_settings_that_make_no_sense(flags: list[str], part: str) -> None:
    result = start("gateway_svc", *flags)
    assert result.returncode == 2
    assert part in " ".join(told(result))


def test_the_environment_is_checked_as_flags_are() -> None:
    result = start("gateway_svc", SSJF_GATEWAY_MAX_QUEUED="0")
    assert result.returncode == 2
    assert "--max-queued (SSJF_GATEWAY_MAX_QUEUED)" in result.stderr


# The engine learns it from the same code, but loads its model before.
@pytest.mark.parametrize("service", ["gateway_svc", "predictor_svc"])
def test_a_port_in_use_is_one_line(service: str, taken_port: int) -> None:
    result = start(service, f"--port={taken_port}")
    assert result.returncode == 1
    (line,) = told(result)
    assert line.startswith(f"{service}: cannot listen on 127.0.0.1:{taken_port}")


@pytest.mark.parametrize("content", [None, "{", "[1]", '{"a": -1}'])
def test_oracle_lengths_that_cannot_be_used_are_one_line(
    tmp_path: Path, content: str | None
) -> None:
    path = tmp_path / "lengths.json"
    if content is not None:
        path.write_text(content)
    result = start("gateway_svc", "--benchmark", "--policy=oracle", f"--oracle-lengths={path}")
    assert result.returncode == 1
    (line,) = told(result)
    assert line.startswith(f"gateway_svc: --oracle-lengths {path}: ")


@pytest.mark.parametrize("service", SERVICES)
def test_help_explains_every_flag(service: str) -> None:
    result = start(service, "--help")
    assert result.returncode == 0
    assert "--drain-timeout-s" in result.stdout
