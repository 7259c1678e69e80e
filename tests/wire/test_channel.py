from __future__ import annotations

from functools import cache
from pathlib import Path

import grpc
import pytest

from ssjf.wire import channel, server


@cache
def c_core() -> bytes:
    """The C core, in which every option that it knows is a string."""
    folder = Path(grpc.__file__).parent / "_cython"
    (library,) = [
        path
        for path in folder.iterdir()
        if path.name.startswith("cygrpc.") and path.suffix in (".so", ".pyd")
    ]
    return library.read_bytes()


def is_known(option: str) -> bool:
    return option.encode() + b"\0" in c_core()


@pytest.mark.parametrize("option", [name for name, _ in channel.OPTIONS])
def test_the_c_core_knows_every_option_of_our_channels(option: str) -> None:
    assert is_known(option)


@pytest.mark.parametrize("option", [name for name, _ in server.OPTIONS])
def test_the_c_core_knows_every_option_of_our_servers(option: str) -> None:
    assert is_known(option)


def test_an_option_that_does_not_exist_would_be_noticed() -> None:
    assert not is_known("grpc.http2.min_recv_ping_interval_without_data_ms")
