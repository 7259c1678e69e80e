"""`ssjf bench gateway`, small: every case with real processes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ssjf_cli.main import app


@pytest.fixture(autouse=True)
def _cores() -> Iterator[None]:
    """The command keeps to a few cores; this process gets its own back."""
    before = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, before)


@pytest.mark.service
def test_every_case_is_measured(tmp_path: Path) -> None:
    out = tmp_path / "gateway.json"
    options = {"seconds": 0.5, "streams": 8, "queued": 20, "requests": 5, "step-ms": 5}
    flags = [f"--{name}={value}" for name, value in options.items()]
    result = CliRunner().invoke(app, ["bench", "gateway", f"--json={out}", *flags])
    assert result.exit_code == 0, result.output
    data = json.loads(out.read_text())
    assert data["overhead"]["through_gateway"]["whole"]["calls"] == 5
    assert data["every_step"]["tokens_a_message"] == pytest.approx(1.0, abs=0.5)
    assert data["every_step"]["messages_per_s"] > 0
    assert data["coalesced"]["tokens_a_message"] > 2
    held = data["queued"]
    assert held["streams"] == 20
    assert held["resident_bytes"] >= held["resident_bytes_before"] > 2**20
    assert {"hardware", "versions", "commit", "command", "cores"} <= data.keys()
    assert "resident with 20 queued" in result.output
