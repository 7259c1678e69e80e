"""The services of one machine as a unit: start together, stop in order, restart one.

Owns which services run with which flags. Used by `ssjf up`, `ssjf demo` and the
service tests alike. Knows nothing of what the services do.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from ssjf_cli.process import (
    Flags,
    Service,
    ServiceName,
    ServiceProcess,
    StackError,
    free_port,
)

STOP_ORDER: Final[tuple[ServiceName, ...]] = ("gateway", "predictor", "engine")
START_ORDER: Final = STOP_ORDER[::-1]
POLL_S: Final = 0.05
LOOPBACK: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class StackOptions:
    """Which services run, and how. A service whose flags are None is not started."""

    engine: Flags | None = field(default_factory=dict)
    """Flags of the engine, names without dashes."""
    predictor: Flags | None = field(default_factory=dict)
    """Flags of the predictor."""
    gateway: Flags | None = field(default_factory=dict)
    """Flags of the gateway; where it finds the others is filled in."""
    host: str = LOOPBACK
    """Where the gateway listens; the others stay on the loopback address."""
    ports: Mapping[ServiceName, int] = field(default_factory=dict)
    """Ports; a service that is not named, or has 0, gets a free one."""
    log_dir: Path | None = None
    """Folder of the services' logs; None takes a temporary one, removed on stop."""
    start_timeout_s: float = 180.0
    """Most seconds until all services serve."""
    stop_timeout_s: float = 10.0
    """Seconds after SIGTERM until a service is killed."""


class Stack:
    """The services of `options`; a context manager that starts and stops them."""

    def __init__(self, options: StackOptions) -> None:
        self.options = options
        self._services = _resolve(options)
        self._running: dict[ServiceName, ServiceProcess] = {}
        self._temporary: tempfile.TemporaryDirectory[str] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    @property
    def services(self) -> tuple[Service, ...]:
        """What is started, in the order of the start."""
        return tuple(self._services.values())

    @property
    def gateway_address(self) -> str:
        """``host:port`` of the gateway."""
        return self._services["gateway"].address

    @property
    def predictor_address(self) -> str:
        """``host:port`` of the predictor."""
        return self._services["predictor"].address

    @property
    def engine_address(self) -> str:
        """``host:port`` of the engine."""
        return self._services["engine"].address

    def process(self, name: ServiceName) -> ServiceProcess:
        """The process of a service that was started."""
        return self._running[name]

    def is_running(self, name: ServiceName) -> bool:
        """Whether the service was started and has not ended."""
        return name in self._running and self._running[name].returncode is None

    def log_path(self, name: ServiceName) -> Path:
        """Where the service's output goes."""
        return self._log_dir() / f"{name}.log"

    def start(self, on_serving: Callable[[Service], None] = lambda _: None) -> None:
        """Starts all services at once and returns when they serve.

        Calls `on_serving` for each. Raises StackError where one ends or is late.
        """
        for name in self._services:
            self._launch(name)
        give_up = time.monotonic() + self.options.start_timeout_s
        for name, service in self._services.items():
            self._wait(name, give_up)
            on_serving(service)

    def restart(self, name: ServiceName, flags: Flags | None = None) -> None:
        """Stops a service if it runs and starts it on its old port, with new flags if given.

        Returns when it serves. Raises StackError as `start`.
        """
        self.stop_one(name)
        if flags is not None:
            self._services[name] = _with_flags(self._services, name, flags)
        self._launch(name)
        self._wait(name, time.monotonic() + self.options.start_timeout_s)

    def stop_one(self, name: ServiceName) -> int | None:
        """Stops one service; its exit code, or None where it did not run."""
        process = self._running.get(name)
        if process is None:
            return None
        code = process.stop(self.options.stop_timeout_s)
        del self._running[name]
        return code

    def kill(self, name: ServiceName) -> None:
        """Kills one service outright."""
        self._running.pop(name).kill()

    def check(self) -> None:
        """Raises StackError where a service has ended by itself."""
        for process in self._running.values():
            process.check()

    def watch(self) -> None:
        """Blocks for as long as all services run, then raises StackError."""
        while True:
            self.check()
            time.sleep(4 * POLL_S)

    def stop(self) -> None:
        """Stops what runs: gateway, predictor, engine. When interrupted, kills the rest."""
        try:
            for name in STOP_ORDER:
                self.stop_one(name)
        finally:
            for process in self._running.values():
                process.kill()
            self._running.clear()
            if self._temporary is not None:
                self._temporary.cleanup()
                self._temporary = None

    def _launch(self, name: ServiceName) -> None:
        self._running[name] = ServiceProcess(self._services[name], self.log_path(name))

    def _wait(self, name: ServiceName, give_up: float) -> None:
        process = self._running[name]
        while not process.is_serving():
            self.check()  # any of them: the gateway waits for an engine that may be dead
            time.sleep(POLL_S)
            if time.monotonic() > give_up:
                raise StackError(
                    process.report(f"not serving in {self.options.start_timeout_s:g} s")
                )

    def _log_dir(self) -> Path:
        if self.options.log_dir is not None:
            self.options.log_dir.mkdir(parents=True, exist_ok=True)
            return self.options.log_dir
        if self._temporary is None:
            self._temporary = tempfile.TemporaryDirectory(prefix="ssjf-logs-")
        return Path(self._temporary.name)


def _resolve(options: StackOptions) -> dict[ServiceName, Service]:
    flags: dict[ServiceName, Flags | None] = {
        "engine": options.engine,
        "predictor": options.predictor,
        "gateway": options.gateway,
    }
    services: dict[ServiceName, Service] = {}
    for name in START_ORDER:
        given = flags[name]
        if given is not None:
            host = options.host if name == "gateway" else LOOPBACK
            port = options.ports.get(name, 0) or free_port(host)
            services[name] = Service(name, host, port, {})
            services[name] = _with_flags(services, name, given)
    return services


def _with_flags(
    services: Mapping[ServiceName, Service], name: ServiceName, flags: Flags
) -> Service:
    service = services[name]
    if name == "gateway":
        addresses = {peer.name: peer.address for peer in services.values()}
        predictor = addresses.get("predictor", "none")
        engines = {"engines": addresses["engine"]} if "engine" in addresses else {}
        flags = {**engines, "predictor": predictor, **flags}
    return Service(name, service.host, service.port, flags)
