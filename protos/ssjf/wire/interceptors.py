"""The outermost boundary of every ssjf service.

Three tiers: a known error becomes its status and details; a cancellation that the
client did not ask for becomes UNAVAILABLE; anything else is logged whole and the
client learns only the request id. Bytes that are no message become
INVALID_ARGUMENT. No client ever sees UNKNOWN or a Python class name.

Streaming handlers are coroutines that call ``context.write``, never generators:
a generator can be closed at a ``yield``, with its clean-up left to the collector.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

import grpc

from ssjf.wire import errors, logs, request_id

if TYPE_CHECKING:  # grpc's classes are generic in their type stubs only
    Context = grpc.aio.ServicerContext[Any, Any]
    Method = Callable[[Any, Context], Awaitable[Any]]


class Boundary(grpc.aio.ServerInterceptor):
    """Wraps every method of the ssjf packages; others (health, reflection) pass."""

    async def intercept_service(
        self,
        continuation: Callable[
            [grpc.HandlerCallDetails], Awaitable[grpc.RpcMethodHandler[Any, Any] | None]
        ],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        """The method's handler, guarded."""
        handler = await continuation(handler_call_details)
        if handler is None or not handler_call_details.method.startswith("/ssjf."):
            return handler
        return _guarded(handler)


@dataclass(frozen=True, slots=True)
class _Undecodable:
    """Stands for a message whose bytes could not be parsed."""


def _guarded(handler: Any) -> grpc.RpcMethodHandler[Any, Any]:
    decode = _tolerant(handler.request_deserializer)
    encode = handler.response_serializer
    if handler.unary_unary is not None:
        return grpc.unary_unary_rpc_method_handler(_guard(handler.unary_unary), decode, encode)
    if handler.unary_stream is not None:
        return grpc.unary_stream_rpc_method_handler(_guard(handler.unary_stream), decode, encode)
    if handler.stream_stream is not None:
        return grpc.stream_stream_rpc_method_handler(_guard(handler.stream_stream), decode, encode)
    raise TypeError("client-streaming methods are not used in ssjf")


def _tolerant(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    def decode_or_mark(data: bytes) -> Any:
        try:
            return decode(data)
        except Exception:
            return _Undecodable()

    return decode_or_mark


def _guard(method: Method) -> Any:
    async def guarded(request: Any, context: Context) -> Any:
        request_id.current.set(request_id.draw())
        try:
            return await method(_decoded(request), context)
        except grpc.aio.AbortError:
            raise  # abort() already told the client
        except errors.SsjfError as error:
            await abort(context, error)
        except asyncio.CancelledError:
            if context.cancelled() or context.done():
                raise
            # Swallowed by grpc.aio otherwise: the client would hang to its deadline.
            await abort(context, errors.Interrupted("the call was interrupted", retry_after_s=1.0))
        except Exception:
            logs.get_logger().exception("unhandled error", request_id=request_id.current.get())
            await abort(context, errors.Internal("internal error; the log has it under request_id"))

    return guarded


def _decoded(request: Any) -> Any:
    if isinstance(request, AsyncIterator):
        return _decoded_stream(request)
    if isinstance(request, _Undecodable):
        raise errors.InvalidRequest(
            [errors.Violation("", "the bytes are not a message of this method's request type")]
        )
    return request


async def _decoded_stream(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for request in requests:
        yield _decoded(request)


async def abort(context: Context, error: errors.SsjfError) -> NoReturn:
    """Ends the call with the status and details of `error`."""
    status = errors.to_status(error, request_id.current.get())
    trailers = ((errors.STATUS_TRAILER, status.SerializeToString()),)
    await context.abort(error.code, error.message, trailers)
    raise AssertionError("abort returns")
