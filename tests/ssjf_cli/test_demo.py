"""`ssjf demo --quick`: every phase on the real services, with few and short answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from ssjf_cli import demo

pytestmark = [pytest.mark.service, pytest.mark.timeout(300)]


def test_every_pass_is_in_the_table_the_plot_and_the_figures(tmp_path: Path) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "ssjf_cli", "demo", "--quick", f"--out={tmp_path}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    passes = ["fcfs", "ssjf", "oracle", "fcfs", "ssjf"]
    data = json.loads((tmp_path / "demo.json").read_text())
    assert [one["policy"] for one in data["passes"]] == passes
    assert {one["failed"] for one in data["passes"]} == {0}
    assert (tmp_path / "demo.png").read_bytes().startswith(b"\x89PNG")
    assert sum(line.count("burst") for line in result.stdout.splitlines()) == 3
    # Each policy saw the same seeds, and the stream's arrivals are the same under both.
    seeds = [[record["seed"] for record in one["records"]] for one in data["passes"]]
    assert seeds == [seeds[0]] * 5
    arrivals = [[record["arrival_s"] for record in one["records"]] for one in data["passes"]]
    assert arrivals[3] == arrivals[4]
    assert arrivals[3][-1] > 0


def test_the_full_demo_is_the_workload_of_the_readme() -> None:
    assert demo.FULL.prompts is None
    assert demo.FULL.max_tokens >= 256
    assert (demo.FULL.max_sequences, demo.FULL.load) == (8, 1.3)
