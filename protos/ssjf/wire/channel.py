"""Client channels between the services, and for clients in Python.

Every option has its reason beside it; a test checks that each name is one that
the C core knows, because it ignores unknown ones without a word.
"""

from __future__ import annotations

from typing import Final

import grpc

MAX_MESSAGE_BYTES: Final = 4 * 1024 * 1024
MAX_METADATA_BYTES: Final = 16 * 1024

OPTIONS: Final[tuple[tuple[str, int], ...]] = (
    ("grpc.max_receive_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", MAX_MESSAGE_BYTES),
    ("grpc.max_metadata_size", MAX_METADATA_BYTES),
    # A frozen or vanished peer is noticed in about 3 s; without ping_timeout_ms it takes a minute.
    ("grpc.keepalive_time_ms", 1000),
    ("grpc.keepalive_timeout_ms", 2000),
    ("grpc.http2.ping_timeout_ms", 2000),
    ("grpc.http2.max_pings_without_data", 0),
    # A peer that restarts is found again within half a second; the default waits up to two minutes.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 500),
)


def connect(address: str) -> grpc.aio.Channel:
    """A plain-text aio channel to `address` (host:port); connects on first use."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)


def connect_blocking(address: str) -> grpc.Channel:
    """A plain-text blocking channel to `address`, for scripts."""
    return grpc.insecure_channel(address, options=OPTIONS)
