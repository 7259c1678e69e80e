from __future__ import annotations

import socket
import threading
import urllib.request

import pytest

from ssjf.wire import metrics
from ssjf.wire.run import StartupError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_the_endpoint_answers_until_it_is_stopped() -> None:
    port = free_port()
    stop = metrics.serve(port)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        assert b"python_info" in response.read()
    stop()
    with pytest.raises(OSError, match="refused"):
        urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10)


def test_port_0_serves_nothing() -> None:
    threads = threading.active_count()
    stop = metrics.serve(0)
    assert threading.active_count() == threads
    stop()


def test_a_port_in_use_is_one_line() -> None:
    port = free_port()
    stop = metrics.serve(port)
    try:
        with pytest.raises(StartupError, match=f"metrics: cannot listen on 127.0.0.1:{port}"):
            metrics.serve(port)
    finally:
        stop()
