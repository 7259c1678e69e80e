"""Structured logs: key-value lines on a terminal, JSON elsewhere.

What clients send (request ids, model names) may reach a log line; control
characters in it are escaped, so that no client can forge or colour a line.
"""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import Any

import structlog


def configure(service: str, *, level: str = "info", json: bool | None = None) -> None:
    """Sets structlog up for this process, once; `json` None means: unless stderr is a terminal."""
    as_json = not sys.stderr.isatty() if json is None else json
    renderer: Any = (
        structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    )
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            _escape,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(
            logging.getLevelNamesMapping()[level.upper()]
        ),
        logger_factory=structlog.PrintLoggerFactory(_LossyStderr()),  # type: ignore[arg-type]
    )
    structlog.contextvars.bind_contextvars(service=service)


def get_logger() -> structlog.stdlib.BoundLogger:
    """A logger bound to this process's service."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger()
    return logger


class _LossyStderr:
    """Stderr as structlog needs it; a full disk or a closed pipe loses lines, never a request."""

    def write(self, text: str) -> None:
        """Writes what can be written."""
        with suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flushes what can be flushed."""
        with suppress(OSError, ValueError):
            sys.stderr.flush()


def _escape(
    _logger: Any, _name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    for key, value in event.items():
        if isinstance(value, str) and key != "exception" and not value.isprintable():
            event[key] = value.encode("unicode_escape").decode()
    return event
