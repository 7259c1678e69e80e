"""`ssjf bench scheduler`: rows, their table and the file."""

from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from ssjf_cli.bench import app

SMALL = ["--queued=10", "--queued=20", "--turns=30"]


def test_each_policy_is_measured_with_each_queue(tmp_path: Path) -> None:
    out = tmp_path / "scheduler.json"
    options = [f"--json={out}", "--policy=ssjf", "--policy=fcfs", *SMALL]
    result = CliRunner().invoke(app, ["scheduler", *options])
    assert result.exit_code == 0, result.output
    assert "jobs/s" in result.output
    data = json.loads(out.read_text())
    assert {"hardware", "versions", "commit", "command"} <= set(data)
    cases = [(row["policy"], row["queued"]) for row in data["results"]]
    assert cases == [("ssjf", 10), ("ssjf", 20), ("fcfs", 10), ("fcfs", 20)]
    assert all(0 < row["decide_p50_ms"] <= row["decide_p99_ms"] for row in data["results"])


def test_an_unknown_policy_is_one_line(tmp_path: Path) -> None:
    options = [f"--json={tmp_path / 'out.json'}", "--policy=longest", *SMALL]
    result = CliRunner().invoke(app, ["scheduler", *options])
    assert result.exit_code == 1
    assert "unknown policy 'longest'" in result.output
