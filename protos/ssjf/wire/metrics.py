"""The Prometheus endpoint of a service: `http://HOST:PORT/metrics`."""

from __future__ import annotations

from collections.abc import Callable

import prometheus_client

from ssjf.wire.run import StartupError


def serve(port: int, host: str = "127.0.0.1") -> Callable[[], None]:
    """Serves the default registry in a thread and returns what stops it; port 0 serves nothing.

    Raises StartupError where the port is taken.
    """
    if port == 0:
        return lambda: None
    try:
        server, thread = prometheus_client.start_http_server(port, addr=host)
    except OSError as error:
        raise StartupError(f"metrics: cannot listen on {host}:{port}: {error.strerror}") from error

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
