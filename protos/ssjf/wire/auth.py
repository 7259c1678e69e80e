"""Bearer tokens: who is calling, decided once, before any handler runs.

Deny by default: where a `TokenTable` is given to `server.listen`, every method needs a
token in its `authorization` metadata, reflection too; health alone is open. Tokens are
kept as SHA-256 digests and compared in constant time; neither a log line nor a repr
can show one. What a principal may ask for is the service's business, not this module's.
"""

from __future__ import annotations

import hashlib
import hmac
import inspect
import re
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

import grpc

from ssjf.wire import errors
from ssjf.wire.interceptors import abort

if TYPE_CHECKING:  # grpc's classes are generic in their type stubs only
    Context = grpc.aio.ServicerContext[Any, Any]

METADATA_KEY: Final = "authorization"
OPEN_METHODS: Final = "/grpc.health.v1.Health/"
MIN_TOKEN_CHARS: Final = 16
_TOKEN: Final = re.compile(rf"[\x21-\x7e]{{{MIN_TOKEN_CHARS},1024}}")
_DIGEST: Final = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Principal:
    """Who calls: the tenant's name, and whether it may look at every tenant's requests."""

    tenant: str
    admin: bool = False


OPEN: Final = Principal(tenant="", admin=True)
"""The caller where no table is configured: one tenant, which may do everything."""

current: ContextVar[Principal] = ContextVar("principal", default=OPEN)
"""The principal of the call being handled."""


@dataclass(slots=True)
class TokenTable:
    """Principals by the digests of their tokens; `replace` takes effect with the next call."""

    _principals: Mapping[bytes, Principal] = field(default_factory=dict, repr=False)

    def replace(self, principals: Mapping[bytes, Principal]) -> None:
        """Puts another table in force."""
        self._principals = dict(principals)

    def authenticate(self, metadata: Sequence[tuple[str, str | bytes]] | None) -> Principal:
        """The principal of a call's metadata.

        Raises Unauthenticated where there is no token, more than one, or none that is known.
        The comparison takes the same time whichever token it is.
        """
        values = [value for key, value in metadata or () if key == METADATA_KEY]
        if len(values) != 1 or not isinstance(values[0], str):
            raise errors.Unauthenticated("a bearer token is needed in the authorization metadata")
        scheme, _, token = values[0].partition(" ")
        presented = digest(token.strip())
        found: Principal | None = None
        for known, principal in self._principals.items():
            if hmac.compare_digest(known, presented):
                found = principal
        if scheme.lower() != "bearer" or found is None:
            raise errors.Unauthenticated("the bearer token is not known")
        return found


def digest(token: str) -> bytes:
    """What a table keeps of a token: its SHA-256, 32 bytes."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def parse_token(written: str) -> bytes:
    """The digest that a file means by a token or by ``sha256:`` and 64 hex digits.

    Raises ValueError, without the token in it, for what is neither.
    """
    if found := _DIGEST.fullmatch(written):
        return bytes.fromhex(found[1])
    if written.startswith("sha256:"):
        raise ValueError("sha256: wants 64 lower-case hex digits after it")
    if not _TOKEN.fullmatch(written):
        raise ValueError(f"a token has {MIN_TOKEN_CHARS} to 1024 printable characters, no space")
    return digest(written)


def require_admin() -> None:
    """Raises PermissionDenied unless the caller may look at every tenant's requests."""
    if not current.get().admin:
        raise errors.PermissionDenied("this method needs an admin's token")


def bearer(token: str | None) -> tuple[tuple[str, str], ...]:
    """Call metadata that carries `token`; empty without one. For clients."""
    return ((METADATA_KEY, f"Bearer {token}"),) if token else ()


class Authentication(grpc.aio.ServerInterceptor):
    """Refuses calls without a known token, and tells handlers who is calling."""

    def __init__(self, table: TokenTable) -> None:
        self._table = table

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler for a known caller, one that refuses for any other."""
        handler = await continuation(handler_call_details)
        if handler is None or handler_call_details.method.startswith(OPEN_METHODS):
            return handler
        try:
            principal = self._table.authenticate(handler_call_details.invocation_metadata)
        except errors.Unauthenticated as refused:
            return _with(handler, _refusing(refused))
        return _with(handler, _known(principal))


Wrap = Callable[[Callable[[Any, Any], Any]], Callable[[Any, Any], Any]]


def _known(principal: Principal) -> Wrap:
    def wrap(method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def known(request: Any, context: Context) -> Any:
            current.set(principal)
            return await method(request, context)

        async def known_generator(request: Any, context: Context) -> AsyncIterator[Any]:
            current.set(principal)
            async for response in method(request, context):
                yield response

        # Reflection's handlers are generators; everything of ours is a coroutine.
        return known_generator if inspect.isasyncgenfunction(method) else known

    return wrap


def _refusing(refused: errors.SsjfError) -> Wrap:
    def wrap(_method: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
        async def refuse(_request: Any, context: Context) -> Any:
            await abort(context, refused)

        return refuse

    return wrap


def _with(handler: Any, wrap: Wrap) -> grpc.RpcMethodHandler[Any, Any]:
    decode, encode = handler.request_deserializer, handler.response_serializer
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(wrap(handler.unary_unary), decode, encode)
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(wrap(handler.unary_stream), decode, encode)
    return grpc.stream_stream_rpc_method_handler(wrap(handler.stream_stream), decode, encode)
