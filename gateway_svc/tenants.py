"""The tenants: who may send requests, in which class, how much and with what share.

Owns the tenant file (TOML) and keeps to its latest good version while the gateway runs.
Without a file there is one tenant, without a name, that may do everything. What a token
is and how it is compared is `ssjf.wire.auth`'s; called by the composition root and the
service.
"""

from __future__ import annotations

import asyncio
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Final, Literal

import pydantic
from pydantic import BaseModel, ConfigDict, Field

from gateway_svc.scheduling.job import Priority
from gateway_svc.scheduling.quota import UNLIMITED, Tenant
from ssjf.wire import auth, logs
from ssjf.wire.auth import Principal, TokenTable
from ssjf.wire.run import StartupError

LOOK_INTERVAL_S: Final = 1.0

ClassName = Literal["urgent", "standard", "batch"]
TenantName = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,64}$")]
Bound = Annotated[int, Field(ge=1, le=1_000_000_000)]


class _Strict(BaseModel):
    # A token that is refused must not be shown in the message.
    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class TenantEntry(_Strict):
    """One tenant of the file."""

    tokens: list[str] = Field(min_length=1, repr=False)
    """Its bearer tokens, each as it is or as ``sha256:`` and 64 hex digits."""
    highest_class: ClassName = "standard"
    """The highest class that its requests may have."""
    weight: float = Field(default=1.0, gt=0, le=1e6, allow_inf_nan=False)
    """Its share against the other tenants' weights."""
    max_queued_requests: Bound | None = None
    """Requests that may wait."""
    max_queued_tokens: Bound | None = None
    """Tokens that may wait: prompt plus max_tokens of each request."""
    max_running_requests: Bound | None = None
    """Requests that may run at once."""
    admin: bool = False
    """Whether it may look at every tenant's requests (GetQueue, WatchQueue)."""


class TenantFile(_Strict):
    """The file: a table for each tenant, by its name."""

    tenants: dict[TenantName, TenantEntry] = Field(min_length=1)


@dataclass(frozen=True, slots=True)
class Rules:
    """What one tenant's requests are held to."""

    tenant: Tenant
    highest: Priority = Priority.URGENT

    def clamp(self, priority: Priority) -> Priority:
        """The class that a request gets: never above the tenant's highest."""
        return max(self.highest, priority)  # a smaller number is a higher class


SOLE: Final = Rules(Tenant())
"""The one tenant of a gateway without a file."""


class TenantFileError(Exception):
    """The file cannot be read or is wrong; the message names the key, never a token."""


def read(path: Path) -> tuple[dict[str, Rules], dict[bytes, Principal]]:
    """The tenants of a file by name, and the principals by digest. Raises TenantFileError."""
    try:
        with path.open("rb") as file:
            parsed = TenantFile.model_validate(tomllib.load(file))
    except OSError as error:
        raise TenantFileError(error.strerror or "cannot be read") from error
    except pydantic.ValidationError as error:
        problem = error.errors(include_input=False, include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise TenantFileError(f"{where}: {problem['msg']}") from None
    except ValueError as error:  # no TOML, or no UTF-8
        raise TenantFileError(f"is not TOML: {error}") from None
    rules = {name: _rules(name, entry) for name, entry in parsed.tenants.items()}
    return rules, _principals(parsed.tenants)


def _rules(name: str, entry: TenantEntry) -> Rules:
    tenant = Tenant(
        name=name,
        weight=entry.weight,
        max_queued=entry.max_queued_requests or UNLIMITED,
        max_queued_tokens=entry.max_queued_tokens or UNLIMITED,
        max_running=entry.max_running_requests or UNLIMITED,
    )
    return Rules(tenant, Priority[entry.highest_class.upper()])


def _principals(entries: Mapping[str, TenantEntry]) -> dict[bytes, Principal]:
    principals: dict[bytes, Principal] = {}
    for name, entry in entries.items():
        for index, token in enumerate(entry.tokens):
            where = f"tenants.{name}.tokens.{index}"
            try:
                known = auth.parse_token(token)
            except ValueError as error:
                raise TenantFileError(f"{where}: {error}") from None
            if known in principals:
                raise TenantFileError(f"{where}: the token is listed twice")
            principals[known] = Principal(name, entry.admin)
    return principals


class Tenants:
    """The tenants in force. Raises StartupError where the file is wrong at the start."""

    def __init__(self, path: Path | None) -> None:
        self.table: TokenTable | None = None
        self._path = path
        self._rules: dict[str, Rules] = {"": SOLE}
        if path is not None:
            self.table = TokenTable()
            self._seen = _stamp(path)
            try:
                self._rules, principals = read(path)
            except TenantFileError as error:
                raise StartupError(f"--tenants {path}: {error}") from error
            self.table.replace(principals)

    @property
    def all(self) -> tuple[Tenant, ...]:
        """Every tenant, as the scheduling core takes them."""
        return tuple(rules.tenant for rules in self._rules.values())

    def of(self, principal: Principal) -> Rules:
        """What a caller's requests are held to. Raises KeyError for one without a tenant."""
        return self._rules[principal.tenant]

    async def follow(self, changed: Callable[[tuple[Tenant, ...]], None]) -> None:
        """Takes the file's new versions, until cancelled; a wrong one is logged and left."""
        while self._path is not None:
            await asyncio.sleep(LOOK_INTERVAL_S)
            stamp = _stamp(self._path)
            if stamp == self._seen:
                continue
            self._seen = stamp
            self._reload(self._path, changed)

    def _reload(self, path: Path, changed: Callable[[tuple[Tenant, ...]], None]) -> None:
        log = logs.get_logger().bind(file=str(path))
        try:
            rules, principals = read(path)
        except TenantFileError as error:
            log.warning("tenant file refused, the old one stays", why=str(error))
            return
        self._rules = rules
        if self.table is not None:
            self.table.replace(principals)
        changed(self.all)
        log.info("tenant file taken", tenants=len(rules))


def _stamp(path: Path) -> tuple[int, int, int] | None:
    """What changes when a file does; None where there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size, found.st_ino
