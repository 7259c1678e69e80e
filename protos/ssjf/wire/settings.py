"""The settings that every service has, read once, at start.

A service's own settings derive from `ServiceSettings` and set their environment
prefix; a flag of the same name (``--max-queue`` for ``max_queue``) wins over the
environment. The docstring under each field is its ``--help``.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict

SETTINGS = SettingsConfigDict(
    use_attribute_docstrings=True,
    cli_kebab_case=True,
    cli_implicit_flags=True,
    cli_avoid_json=True,
    cli_hide_none_type=True,
    env_ignore_empty=True,
    extra="ignore",
    frozen=True,
)


class ServiceSettings(BaseSettings):
    """Where a service listens, and how it logs and stops."""

    model_config = SETTINGS

    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = Field(default=0, ge=0, le=65535)
    """Port to listen on; 0 takes a free one."""
    insecure_bind: bool = False
    """Allow plain text on an address that is not loopback (a private network, or a proxy that
    terminates TLS in front)."""
    metrics_port: int = Field(default=0, ge=0, le=65535)
    """Port of the Prometheus endpoint; 0 turns it off."""
    metrics_host: str = "127.0.0.1"
    """Address of the Prometheus endpoint."""
    drain_timeout_s: float = Field(default=30.0, ge=0, le=3600, allow_inf_nan=False)
    """Seconds that accepted work may take after SIGTERM."""
    log_level: Literal["debug", "info", "warning", "error"] = "info"
    """Least severe log lines to write."""
    log_json: bool | None = None
    """JSON log lines; by default only where stderr is not a terminal."""
