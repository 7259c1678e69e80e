"""A server that answers with bytes that are no message."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc


@asynccontextmanager
async def serving_nonsense(method: str) -> AsyncIterator[str]:
    """A server whose unary `method` (/package.Service/Method) answers with no message at all."""

    async def answer(_request: bytes, _context: Any) -> bytes:
        return b"\xff\xff\xff\xff"

    service, name = method.strip("/").split("/")
    handlers: dict[str, Any] = {name: grpc.unary_unary_rpc_method_handler(answer)}
    running = grpc.aio.server()
    running.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, handlers),))
    port = running.add_insecure_port("127.0.0.1:0")
    await running.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        await running.stop(None)
