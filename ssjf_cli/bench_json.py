"""Where a benchmark's results go: one JSON file, which says where they come from.

Owns the option and the file's form. Called by every command of `bench` that measures.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer

JsonOption = Annotated[Path, typer.Option("--json", help="Where the results go.")]


def write_json(path: Path, results: Mapping[str, Any]) -> None:
    """Results, and where they come from."""
    from ssjf_bench.provenance import provenance

    data = provenance(["ssjf", *sys.argv[1:]]) | dict(results)
    path.write_text(in_lines(data) + "\n", encoding="utf-8")


def in_lines(data: Mapping[str, Any]) -> str:
    """JSON with a line for each key, and for each row of a table; six digits are kept there."""
    return "{\n" + ",\n".join(f" {json.dumps(key)}: {_value(data[key])}" for key in data) + "\n}"


def _value(value: object) -> str:
    if isinstance(value, list) and value and all(isinstance(row, dict) for row in value):
        rows = [{name: _rounded(each) for name, each in row.items()} for row in value]
        return "[\n" + ",\n".join(f"  {json.dumps(row)}" for row in rows) + "\n ]"
    return json.dumps(value)


def _rounded(value: object) -> object:
    return float(f"{value:.6g}") if isinstance(value, float) else value
