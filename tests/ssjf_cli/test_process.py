from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ssjf_cli import process
from ssjf_cli.process import Service, ServiceProcess, StackError

# Starts a leashed sleeper, says its pid and waits to be killed.
PARENT = """
import os, subprocess, sys, time
leash, = sys.argv[1:]
sleeper = [sys.executable, "-c", "import time; time.sleep(600)"]
child = subprocess.Popen([sys.executable, leash, str(os.getpid()), *sleeper])
print(child.pid, flush=True)
time.sleep(600)
"""


def is_alive(pid: int) -> bool:
    """Whether the process runs; a zombie that nobody has reaped yet does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid: int) -> None:
    while is_alive(pid):
        time.sleep(0.01)


@pytest.mark.skipif(sys.platform != "linux", reason="the parent-death signal is Linux's")
def test_a_leashed_process_dies_with_a_parent_that_is_killed() -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT, str(process.LEASH)], stdout=subprocess.PIPE, text=True
    ) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_alive(child)
        parent.kill()
    wait_until_gone(child)


def test_a_leash_whose_parent_is_gone_starts_nothing(tmp_path: Path) -> None:
    mark = tmp_path / "started"
    command = [sys.executable, "-c", f"open({str(mark)!r}, 'w')"]
    result = subprocess.run(
        [sys.executable, str(process.LEASH), "1", *command], capture_output=True, check=False
    )
    assert result.returncode == 1
    assert not mark.exists()


@pytest.mark.parametrize(
    ("flag", "argument"),
    [
        (("policy", "ssjf"), "--policy=ssjf"),
        (("max_sequences", 4), "--max-sequences=4"),
        (("benchmark", True), "--benchmark"),
        (("benchmark", False), "--no-benchmark"),
        (("predictor", ""), "--predictor="),
    ],
)
def test_flags_become_arguments(flag: tuple[str, process.Flag], argument: str) -> None:
    assert process.arguments(dict([flag])) == [argument]


@pytest.mark.parametrize(
    ("host", "address"),
    [("127.0.0.1", "127.0.0.1:7"), ("0.0.0.0", "127.0.0.1:7"), ("::", "[::1]:7")],  # noqa: S104
)
def test_a_service_is_reached_on_this_machine(host: str, address: str) -> None:
    assert Service("gateway", host, 7, {}).address == address


def refused(tmp_path: Path) -> ServiceProcess:
    """A gateway that refuses its settings, run to its end."""
    service = Service("gateway", "127.0.0.1", process.free_port(), {"policy": "longest"})
    started = ServiceProcess(service, tmp_path / "gateway.log")
    started.wait(timeout_s=60)
    return started


def test_a_service_that_ends_is_told_with_its_code_and_last_lines(tmp_path: Path) -> None:
    with pytest.raises(StackError) as caught:
        refused(tmp_path).check()
    first, *log = str(caught.value).splitlines()
    assert first == "gateway: ended with exit code 2"
    assert any("--policy (SSJF_GATEWAY_POLICY)" in line for line in log)


def test_only_lines_of_this_start_are_shown(tmp_path: Path) -> None:
    (tmp_path / "gateway.log").write_text("yesterday's\n")
    assert "yesterday's" not in refused(tmp_path).last_lines()


def test_stopping_what_has_ended_gives_its_code(tmp_path: Path) -> None:
    started = refused(tmp_path)
    assert started.stop(timeout_s=1) == 2
    assert started.kill() == 2


def test_a_service_has_a_session_of_its_own(tmp_path: Path) -> None:
    service = Service("gateway", "127.0.0.1", process.free_port(), {})
    started = ServiceProcess(service, tmp_path / "gateway.log")
    try:
        assert os.getsid(started.pid) != os.getsid(0)
    finally:
        assert started.kill() == -signal.SIGKILL
