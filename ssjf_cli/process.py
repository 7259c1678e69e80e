"""One service as a child process: start, readiness, its log, its end.

Owns the child's process id, port and log file. Knows nothing of the other
services; `stack` puts them in order. A child outlives neither a stop nor its
parent's death (see `leash`).
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from ssjf.wire import health_check

ServiceName = Literal["engine", "predictor", "gateway"]
Flag = str | int | float | bool
Flags = Mapping[str, Flag]

LAST_LINES: Final = 12
LEASH: Final = Path(__file__).with_name("leash.py")

# The services share this machine's cores. OpenMP threads that spin for each other take them
# from whoever they wait for; this many (tens of microseconds) keep an idle machine's speed.
SHARED_CORES: Final = {"GOMP_SPINCOUNT": "20000"}

# The parent-death signal follows the thread that forked, not the process; this one lives as
# long as the process does.
_starter = ThreadPoolExecutor(max_workers=1, thread_name_prefix="service-starter")


class StackError(Exception):
    """A service did not start, or ended by itself; the message is for the terminal."""


@dataclass(frozen=True, slots=True)
class Service:
    """What to start: a service, where it listens, and its flags.

    `module` is what runs in its stead, where that is not the service itself.
    """

    name: ServiceName
    host: str
    port: int
    flags: Flags
    module: str | None = None

    @property
    def address(self) -> str:
        """``host:port`` under which it is reached from this machine."""
        host = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}.get(self.host, self.host)  # noqa: S104
        return f"{host}:{self.port}"

    def command(self) -> list[str]:
        """The command line, by this interpreter."""
        flags = {"host": self.host, "port": self.port, **self.flags}
        module = self.module or f"{self.name}_svc"
        return [sys.executable, "-m", module, *arguments(flags)]


def arguments(flags: Flags) -> list[str]:
    """Command line of `flags`; True gives ``--name``, False ``--no-name``."""
    given = []
    for name, value in flags.items():
        dashed = name.replace("_", "-")
        if isinstance(value, bool):
            given.append(f"--{dashed}" if value else f"--no-{dashed}")
        else:
            given.append(f"--{dashed}={value}")
    return given


def free_port(host: str = "127.0.0.1") -> int:
    """A port that is free now; it stays the service's over its restarts."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.bind((host, 0))
        return int(probe.getsockname()[1])


class ServiceProcess:
    """A running service; its output goes to `log`, which is appended to."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        self._log_start = log.stat().st_size if log.exists() else 0
        self._child = _starter.submit(_spawn, service.command(), log).result()

    @property
    def pid(self) -> int:
        """Process id."""
        return self._child.pid

    @property
    def returncode(self) -> int | None:
        """Exit code, minus the signal that killed it; None while it runs."""
        return self._child.poll()

    def is_serving(self) -> bool:
        """Whether its health says SERVING now."""
        return health_check.is_serving(self.service.address, timeout_s=0.5)

    def check(self) -> None:
        """Raises StackError, with its last lines, where it has ended."""
        code = self.returncode
        if code is not None:
            how = f"with exit code {code}" if code >= 0 else f"by {signal.Signals(-code).name}"
            raise StackError(self.report(f"ended {how}"))

    def stop(self, timeout_s: float) -> int:
        """SIGTERM, then SIGKILL after `timeout_s`; returns the exit code."""
        self._signal(signal.SIGTERM)
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return self.kill()

    def terminate(self) -> None:
        """SIGTERM, without waiting."""
        self._signal(signal.SIGTERM)

    def wait(self, timeout_s: float) -> int:
        """Its exit code. Raises TimeoutError where it runs on."""
        try:
            return self._child.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise TimeoutError(f"{self.service.name} still runs after {timeout_s} s") from None

    def kill(self) -> int:
        """SIGKILL; returns the exit code."""
        self._signal(signal.SIGKILL)
        return self._child.wait()

    def last_lines(self, count: int = LAST_LINES) -> str:
        """The end of what it wrote since it was started."""
        with self.log.open("rb") as file:
            file.seek(self._log_start)
            lines = file.read().decode(errors="replace").splitlines()
        return "\n".join(lines[-count:])

    def report(self, what: str) -> str:
        """`what` happened to it, and the end of its log, for the terminal."""
        return f"{self.service.name}: {what}\n{self.last_lines()}".rstrip()

    def _signal(self, number: signal.Signals) -> None:
        if self._child.poll() is None:
            # Its process group, which is its own: nothing that it may have started is left.
            os.killpg(self.pid, number)


def _spawn(command: list[str], log: Path) -> subprocess.Popen[bytes]:
    leashed = [sys.executable, "-I", "-S", str(LEASH), str(os.getpid()), *command]
    with log.open("ab") as output:
        return subprocess.Popen(
            leashed,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**SHARED_CORES, **os.environ},
            # Ctrl-C in the terminal reaches us alone; we stop the services in order.
            start_new_session=True,
        )
