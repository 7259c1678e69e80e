"""The gateway as a process of its own."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

COMMAND = [sys.executable, "-m", "gateway_svc", "--predictor", "none", "--engines", "127.0.0.1:1"]


@contextmanager
def gateway(*flags: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [*COMMAND, *flags], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_signal_ends_it_with_0() -> None:
    with gateway("--port", "0") as process:
        assert process.stderr is not None
        assert '"serving"' in next(line for line in process.stderr if "serving" in line)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=30) == 0


def test_a_port_in_use_ends_it_with_1_and_a_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with gateway("--port", str(port)) as process:
            _, said = process.communicate(timeout=30)
    assert process.returncode == 1
    ours = [line for line in said.splitlines() if line.startswith("gateway_svc: ")]
    assert len(ours) == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ours[0]
    assert "Traceback" not in said


def test_a_wrong_setting_ends_it_with_2_and_a_line() -> None:
    with gateway("--policy", "longest") as process:
        _, said = process.communicate(timeout=30)
    assert process.returncode == 2
    assert len(said.splitlines()) == 1
    assert "--policy" in said


def test_help_explains_every_setting() -> None:
    with gateway("--help") as process:
        said, _ = process.communicate(timeout=30)
    assert process.returncode == 0
    assert "--prediction-budget-ms" in said
    assert "queued under the prior" in " ".join(said.split())
