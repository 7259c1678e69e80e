"""Starts a service's process: settings, logs, event loop, exit codes.

Exit codes: 0 after a drain, 1 when the service cannot start or breaks, 2 when a
setting is wrong. Each with one line on stderr.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import NoReturn, TypeVar

import pydantic
import uvloop
from pydantic_settings import CliApp

from ssjf.wire import logs
from ssjf.wire.settings import ServiceSettings

S = TypeVar("S", bound=ServiceSettings)


class StartupError(Exception):
    """The service cannot start; the message is one line for the operator."""


def load_settings(service: str, settings_type: type[S], arguments: list[str] | None = None) -> S:
    """Settings from flags and environment; exits with 2, naming each wrong key."""
    try:
        return CliApp.run(settings_type, cli_args=arguments)
    except pydantic.ValidationError as error:
        prefix = settings_type.model_config.get("env_prefix") or ""
        for problem in error.errors():
            key = ".".join(str(part) for part in problem["loc"])
            shown = f"--{key.replace('_', '-')} ({prefix}{key.upper()}): " if key else ""
            message = problem["msg"].removeprefix("Value error, ")
            print(f"{service}: {shown}{message}", file=sys.stderr)
        sys.exit(2)


def main_entry(
    service: str, settings_type: type[S], serve: Callable[[S], Awaitable[None]]
) -> NoReturn:
    """Runs `serve(settings)` on one uvloop and exits the process."""
    settings = load_settings(service, settings_type)
    logs.configure(service, level=settings.log_level, json=settings.log_json)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_as_coroutine(serve, settings))
    except StartupError as error:
        print(f"{service}: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    sys.exit(0)


async def _as_coroutine(serve: Callable[[S], Awaitable[None]], settings: S) -> None:
    await serve(settings)
