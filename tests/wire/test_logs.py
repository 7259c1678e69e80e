from __future__ import annotations

import io
import json
import sys
from collections.abc import Iterator

import pytest
import structlog

from ssjf.wire import logs

FORGED = 'a"\n{"event": "all is well"}\x1b[31m\u202e'


@pytest.fixture(autouse=True)
def _fresh_structlog() -> Iterator[None]:
    yield
    structlog.reset_defaults()
    structlog.contextvars.clear_contextvars()


@pytest.mark.parametrize("as_json", [True, False])
def test_what_clients_send_can_neither_forge_nor_colour_a_line(
    capsys: pytest.CaptureFixture[str], as_json: bool
) -> None:
    logs.configure("test", json=as_json)
    logs.get_logger().info("refused", client_id=FORGED)
    written = capsys.readouterr().err
    assert written.count("\n") == 1
    assert "\x1b[31m\u202e" not in written
    assert "\\x1b[31m" in written


def test_a_json_line_tells_service_level_and_time(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("test", json=True)
    logs.get_logger().warning("late", by_ms=3)
    line = json.loads(capsys.readouterr().err)
    assert (line["service"], line["level"], line["event"]) == ("test", "warning", "late")
    assert line["by_ms"] == 3
    assert line["timestamp"].endswith("Z")


def test_lines_below_the_level_are_not_written(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("test", level="warning", json=True)
    logs.get_logger().info("chatter")
    assert capsys.readouterr().err == ""


def test_a_line_that_cannot_be_written_is_lost_and_nothing_else(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logs.configure("test", json=True)
    closed = io.StringIO()
    closed.close()
    monkeypatch.setattr(sys, "stderr", closed)
    logs.get_logger().error("nobody reads this")
