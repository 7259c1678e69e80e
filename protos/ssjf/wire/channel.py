"""Client channels between the services, and for clients in Python.

Every option has its reason beside it; a test checks that each name is one that
the C core knows, because it ignores unknown ones without a word.
"""

from __future__ import annotations

import ipaddress
import json
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

# Calls that may be made twice. One that reaches a server which shuts down, or has gone,
# is made once more, by another server where there are several.
_RETRY: Final = {
    "name": [{}],
    "retryPolicy": {
        "maxAttempts": 2,
        "initialBackoff": "0.005s",
        "maxBackoff": "0.02s",
        "backoffMultiplier": 2,
        "retryableStatusCodes": ["UNAVAILABLE"],
    },
}
BALANCED: Final[tuple[tuple[str, int | str], ...]] = (
    *OPTIONS,
    (
        "grpc.service_config",
        json.dumps({"loadBalancingConfig": [{"round_robin": {}}], "methodConfig": [_RETRY]}),
    ),
)


def connect(address: str) -> grpc.aio.Channel:
    """A plain-text aio channel to `address` (host:port); connects on first use."""
    return grpc.aio.insecure_channel(address, options=OPTIONS)


def connect_blocking(address: str) -> grpc.Channel:
    """A plain-text blocking channel to `address`, for scripts."""
    return grpc.insecure_channel(address, options=OPTIONS)


def connect_balanced(addresses: str) -> grpc.aio.Channel:
    """A plain-text aio channel to equal servers, asked in turn; for calls that may be repeated.

    `addresses` is as `balanced_target` takes it, which raises ValueError.
    """
    return grpc.aio.insecure_channel(balanced_target(addresses), options=BALANCED)


def listed(addresses: str) -> tuple[str, ...]:
    """host:port,host:port,... one by one; spaces and empty parts are left out.

    Raises ValueError for none.
    """
    found = tuple(part.strip() for part in addresses.split(",") if part.strip())
    if not found:
        raise ValueError("at least one host:port is needed")
    return found


def balanced_target(addresses: str) -> str:
    """gRPC's name for host:port, of which all addresses count, or for IP:port,IP:port,...

    Raises ValueError for none, and for several that are not IP addresses of one family: gRPC
    resolves one name only.
    """
    several = listed(addresses)
    if len(several) == 1:
        return several[0]
    try:
        versions = {ipaddress.ip_address(_host(address)).version for address in several}
    except ValueError as error:
        raise ValueError(
            f"several addresses are IP:port each, or one name for all: {error}"
        ) from None
    if len(versions) > 1:
        raise ValueError("several addresses are all IPv4, or all IPv6")
    return f"ipv{versions.pop()}:{','.join(several)}"


def _host(address: str) -> str:
    return address.rpartition(":")[0].removeprefix("[").removesuffix("]")
