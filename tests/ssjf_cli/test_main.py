from __future__ import annotations

import subprocess
import sys

import pytest
from typer.testing import CliRunner

from ssjf_cli.main import app

# Prints which of the heavy packages `ssjf --help` has imported.
HELP_IMPORTS = """
import sys
from ssjf_cli import main
sys.argv = ["ssjf", "--help"]
try:
    main.main()
except SystemExit:
    heavy = {"torch", "transformers", "grpc", "matplotlib", "scipy", "onnxruntime", "numpy"}
    print("imported:", sorted(heavy & set(sys.modules)))
"""


def test_help_imports_nothing_heavy() -> None:
    result = subprocess.run(
        [sys.executable, "-c", HELP_IMPORTS], capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines()[-1] == "imported: []"


@pytest.mark.parametrize("command", ["up", "generate", "demo", "predictor"])
def test_every_command_has_help(command: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"])
    assert result.exit_code == 0
    assert "Usage" in result.output


@pytest.mark.parametrize(
    "arguments",
    [
        ["generate"],
        ["generate", "x", "--max-tokens", "many"],
        ["generate", "x", "--max-tokens", "-1"],
        ["generate", "x", "--priority", "first"],
        ["up", "--policy", "longest"],
    ],
)
def test_wrong_usage_exits_with_2(arguments: list[str]) -> None:
    assert CliRunner().invoke(app, arguments).exit_code == 2
