"""Every failure that a client of ssjf can see, as exceptions.

    SsjfError
    ├── InvalidRequest       INVALID_ARGUMENT     INVALID_REQUEST   BadRequest
    ├── Unauthenticated      UNAUTHENTICATED      UNAUTHENTICATED
    ├── PermissionDenied     PERMISSION_DENIED    PERMISSION_DENIED
    ├── UnknownModel         NOT_FOUND            UNKNOWN_MODEL
    ├── DuplicateRequest     ALREADY_EXISTS       DUPLICATE_REQUEST_ID
    ├── AlreadyServing       ALREADY_EXISTS       ALREADY_SERVING
    ├── IncompatiblePeer     FAILED_PRECONDITION  INCOMPATIBLE_PEER
    ├── QueueFull            RESOURCE_EXHAUSTED   QUEUE_FULL        QuotaFailure, RetryInfo
    ├── Overloaded           RESOURCE_EXHAUSTED   OVERLOADED        QuotaFailure, RetryInfo
    ├── KvExhausted          RESOURCE_EXHAUSTED   KV_EXHAUSTED      RetryInfo
    ├── SlowConsumer         RESOURCE_EXHAUSTED   SLOW_CONSUMER
    ├── NoEngine             UNAVAILABLE          NO_ENGINE         RetryInfo
    ├── EngineLost           UNAVAILABLE          ENGINE_LOST       RetryInfo
    ├── Draining             UNAVAILABLE          DRAINING          RetryInfo
    ├── Interrupted          UNAVAILABLE          INTERRUPTED       RetryInfo
    ├── DeadlinePassed       DEADLINE_EXCEEDED    DEADLINE_PASSED
    ├── DeadlineTooSoon      DEADLINE_EXCEEDED    DEADLINE_TOO_SOON   RetryInfo
    ├── QueueTimeout         DEADLINE_EXCEEDED    QUEUE_TIMEOUT     RetryInfo
    ├── NumericFault         INTERNAL             NUMERIC
    └── Internal             INTERNAL             INTERNAL

A handler raises one; `interceptors` turns it into a gRPC status with google.rpc
details (ErrorInfo always). `decode` is the way back, for clients and tests.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Final

import grpc
from google.protobuf import any_pb2, duration_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2

DOMAIN: Final = "ssjf"
STATUS_TRAILER: Final = "grpc-status-details-bin"
# Trailers should stay under 8 KiB; a request can break more rules than fit.
MAX_VIOLATIONS: Final = 32
MAX_DESCRIPTION_CHARS: Final = 160


@dataclass(frozen=True, slots=True)
class Violation:
    """One rule that a request breaks.

    `field` is the path of the field as the .proto names it; `description` says
    what is wrong and what would be right.
    """

    field: str
    description: str


class SsjfError(Exception):
    """A failure with its gRPC status code and ErrorInfo reason."""

    code: ClassVar[grpc.StatusCode] = grpc.StatusCode.INTERNAL
    reason: ClassVar[str] = "INTERNAL"

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s

    def metadata(self) -> Mapping[str, str]:
        """ErrorInfo metadata beyond the request id."""
        return {}

    def details(self) -> Sequence[Message]:
        """google.rpc details beyond ErrorInfo and RetryInfo."""
        return ()


class InvalidRequest(SsjfError):
    """The request breaks rules; all of them are listed."""

    code = grpc.StatusCode.INVALID_ARGUMENT
    reason = "INVALID_REQUEST"

    def __init__(self, violations: Sequence[Violation]) -> None:
        self.violations = tuple(violations)
        listed = "; ".join(f"{v.field}: {v.description}" for v in self.violations[:4])
        more = f"; and {len(self.violations) - 4} more" if len(self.violations) > 4 else ""
        super().__init__(f"invalid request: {listed[:1000]}{more}")

    def details(self) -> Sequence[Message]:
        """BadRequest with every violation, up to what trailers can carry."""
        shown = [
            error_details_pb2.BadRequest.FieldViolation(
                field=v.field, description=v.description[:MAX_DESCRIPTION_CHARS]
            )
            for v in self.violations[:MAX_VIOLATIONS]
        ]
        return (error_details_pb2.BadRequest(field_violations=shown),)


class Unauthenticated(SsjfError):
    """The call carries no bearer token that is known."""

    code = grpc.StatusCode.UNAUTHENTICATED
    reason = "UNAUTHENTICATED"


class PermissionDenied(SsjfError):
    """The caller is known and may not do this."""

    code = grpc.StatusCode.PERMISSION_DENIED
    reason = "PERMISSION_DENIED"


class UnknownModel(SsjfError):
    """No engine serves the model that was asked for."""

    code = grpc.StatusCode.NOT_FOUND
    reason = "UNKNOWN_MODEL"


class DuplicateRequest(SsjfError):
    """A request of the same id is in the gateway."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "DUPLICATE_REQUEST_ID"


class AlreadyServing(SsjfError):
    """The engine has a gateway already."""

    code = grpc.StatusCode.ALREADY_EXISTS
    reason = "ALREADY_SERVING"


class IncompatiblePeer(SsjfError):
    """The two sides speak different revisions or serve different vocabularies."""

    code = grpc.StatusCode.FAILED_PRECONDITION
    reason = "INCOMPATIBLE_PEER"


class Overloaded(SsjfError):
    """A limit was met; trying again later makes sense."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "OVERLOADED"

    def __init__(self, subject: str, description: str, retry_after_s: float) -> None:
        super().__init__(f"{subject}: {description}", retry_after_s=retry_after_s)
        self.subject = subject
        self.description = description

    def details(self) -> Sequence[Message]:
        """QuotaFailure naming the limit."""
        violation = error_details_pb2.QuotaFailure.Violation(
            subject=self.subject, description=self.description
        )
        return (error_details_pb2.QuotaFailure(violations=[violation]),)


class QueueFull(Overloaded):
    """The gateway's queue has no place left."""

    reason = "QUEUE_FULL"


class KvExhausted(SsjfError):
    """The engine ran out of memory for this request."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "KV_EXHAUSTED"


class SlowConsumer(SsjfError):
    """The client stopped reading its answer."""

    code = grpc.StatusCode.RESOURCE_EXHAUSTED
    reason = "SLOW_CONSUMER"


class NoEngine(SsjfError):
    """No engine is connected."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "NO_ENGINE"


class EngineLost(SsjfError):
    """The engine went away in the middle of an answer."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "ENGINE_LOST"

    def __init__(self, tokens_sent: int, *, retry_after_s: float = 1.0) -> None:
        super().__init__(
            f"the engine was lost after {tokens_sent} tokens", retry_after_s=retry_after_s
        )
        self.tokens_sent = tokens_sent

    def metadata(self) -> Mapping[str, str]:
        """How many tokens of the answer the client has."""
        return {"tokens_sent": str(self.tokens_sent)}


class Draining(SsjfError):
    """The service is shutting down and takes nothing new."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "DRAINING"


class Interrupted(SsjfError):
    """The service stopped before the call was done."""

    code = grpc.StatusCode.UNAVAILABLE
    reason = "INTERRUPTED"


class DeadlinePassed(SsjfError):
    """The request's deadline passed; text already sent stays valid."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "DEADLINE_PASSED"


class DeadlineTooSoon(DeadlinePassed):
    """The request's deadline cannot be met, by what waits before it and what it needs."""

    reason = "DEADLINE_TOO_SOON"


class QueueTimeout(SsjfError):
    """The request waited longer than the gateway lets requests wait."""

    code = grpc.StatusCode.DEADLINE_EXCEEDED
    reason = "QUEUE_TIMEOUT"


class NumericFault(SsjfError):
    """The model produced NaN or infinity for this request."""

    reason = "NUMERIC"


class Internal(SsjfError):
    """A bug; the client learns the request id, the log everything."""


def to_status(error: SsjfError, request_id: str) -> status_pb2.Status:
    """The google.rpc.Status of `error`, ErrorInfo first."""
    metadata = {"request_id": request_id, **error.metadata()}
    info = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    messages: list[Message] = [info, *error.details()]
    if error.retry_after_s is not None:
        delay = duration_pb2.Duration()
        delay.FromNanoseconds(int(error.retry_after_s * 1e9))
        messages.append(error_details_pb2.RetryInfo(retry_delay=delay))
    packed = []
    for message in messages:
        packed.append(any_pb2.Any())
        packed[-1].Pack(message)
    number = code_pb2.Code.Value(error.code.name)
    return status_pb2.Status(code=number, message=error.message, details=packed)


@dataclass(frozen=True, slots=True)
class ErrorDetails:
    """What a client can read from a failed call."""

    code: grpc.StatusCode
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: Sequence[Violation] = ()
    quota: Sequence[tuple[str, str]] = ()
    retry_after_s: float | None = None


def decode(error: grpc.RpcError) -> ErrorDetails:
    """The google.rpc details of a failed call, absent ones left at their defaults.

    Takes what a blocking or an aio call raises. Raises TypeError for an error that
    is not a call's.
    """
    if not isinstance(error, grpc.Call | grpc.aio.AioRpcError):
        raise TypeError(f"not the error of a call: {error!r}")
    found = ErrorDetails(code=error.code(), message=error.details() or "")
    status = _from_call(error)
    for packed in status.details if status is not None else ():
        found = _with_detail(found, packed)
    return found


def _from_call(error: Any) -> status_pb2.Status | None:
    # grpc_status.rpc_status.from_call takes blocking calls only.
    for key, value in error.trailing_metadata() or ():
        if key == STATUS_TRAILER:
            return status_pb2.Status.FromString(value)
    return None


def _with_detail(found: ErrorDetails, packed: any_pb2.Any) -> ErrorDetails:
    info = error_details_pb2.ErrorInfo()
    bad = error_details_pb2.BadRequest()
    quota = error_details_pb2.QuotaFailure()
    retry = error_details_pb2.RetryInfo()
    if packed.Unpack(info):
        return replace(found, reason=info.reason, metadata=dict(info.metadata))
    if packed.Unpack(bad):
        listed = [Violation(v.field, v.description) for v in bad.field_violations]
        return replace(found, violations=tuple(listed))
    if packed.Unpack(quota):
        return replace(found, quota=tuple((v.subject, v.description) for v in quota.violations))
    if packed.Unpack(retry):
        return replace(found, retry_after_s=retry.retry_delay.ToNanoseconds() / 1e9)
    return found
