"""`ssjf up`, as a user runs it: start, use, stop; nothing is left behind."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ssjf_cli.test_process import wait_until_gone

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]

UP = ("up", "--port=0", "--predictor-port=0", "--engine-port=0", "--max-sequences=2")
SERVICES = {"engine_svc", "predictor_svc", "gateway_svc"}


def ssjf(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "ssjf_cli", *arguments]


@pytest.fixture
def up(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        ssjf(*UP, f"--log-dir={tmp_path}"), stderr=subprocess.PIPE, text=True
    ) as process:
        yield process
        process.kill()


def services_of(pid: int) -> dict[str, int]:
    """Name and process id of each service that `ssjf up` has started so far."""
    found = {}
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        for child in children.read_text().split():
            words = Path(f"/proc/{child}/cmdline").read_bytes().decode().split("\0")
            names = SERVICES & set(words)
            if names and "-m" in words and not any("leash" in word for word in words):
                found[names.pop()] = int(child)
    return found


def all_services_of(pid: int) -> dict[str, int]:
    while len(found := services_of(pid)) < len(SERVICES):
        time.sleep(0.05)
    return found


def gateway_address(up: subprocess.Popen[str]) -> str:
    """Reads what it prints up to its last line of the start."""
    assert up.stderr is not None
    for line in up.stderr:
        if match := re.search(r"ssjf generate .* --address (\S+)", line):
            return match[1]
    raise AssertionError("it ended before it was up")


def test_it_serves_until_ctrl_c_and_leaves_nothing_behind(up: subprocess.Popen[str]) -> None:
    address = gateway_address(up)
    services = all_services_of(up.pid)
    answer = subprocess.run(
        ssjf("generate", "What is a queue?", "--max-tokens=4", f"--address={address}"),
        capture_output=True,
        text=True,
        check=True,
    )
    assert answer.stdout.strip()
    assert "4 out" in answer.stderr
    up.send_signal(signal.SIGINT)
    assert up.wait() == 0
    assert [Path(f"/proc/{pid}").exists() for pid in services.values()] == [False] * 3


def test_sigterm_during_the_start_leaves_nothing_behind(up: subprocess.Popen[str]) -> None:
    services = all_services_of(up.pid)
    up.terminate()
    assert up.wait() == 0
    assert [Path(f"/proc/{pid}").exists() for pid in services.values()] == [False] * 3


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_being_killed_leaves_nothing_behind(up: subprocess.Popen[str]) -> None:
    services = all_services_of(up.pid)
    up.kill()
    up.wait()
    for pid in services.values():
        wait_until_gone(pid)


def test_a_service_that_dies_ends_it_with_1_and_is_named(up: subprocess.Popen[str]) -> None:
    services = all_services_of(up.pid)
    os.kill(services["predictor_svc"], signal.SIGKILL)
    _, said = up.communicate()
    assert up.returncode == 1
    assert "predictor: ended by SIGKILL" in said
    assert [Path(f"/proc/{pid}").exists() for pid in services.values()] == [False] * 3


def test_a_port_in_use_ends_it_with_1_and_the_services_own_line(
    up: subprocess.Popen[str],
) -> None:
    port = re.search(r"--port=(\d+)", _command(all_services_of(up.pid)["gateway_svc"]))
    assert port is not None
    while not _is_listening(int(port[1])):
        time.sleep(0.05)
    second = subprocess.run(
        ssjf("up", f"--port={port[1]}", "--predictor-port=0", "--engine-port=0"),
        capture_output=True,
        text=True,
        check=False,
    )
    assert second.returncode == 1
    assert f"gateway_svc: cannot listen on 127.0.0.1:{port[1]}" in second.stderr


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().decode().replace("\0", " ")


def _is_listening(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
