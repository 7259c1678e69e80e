"""How a benchmark that cannot be run ends: one line, exit code 1.

Owns the console of `ssjf bench …`. Called by every command of it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import typer
from rich.console import Console

console = Console(stderr=True)


def fail(message: str) -> NoReturn:
    """Says what is wrong and ends the command."""
    line = f"ssjf bench: {message}"
    console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1) from None


def check_output(path: Path) -> None:
    """Fails before hours of work, not after."""
    if not path.parent.is_dir():
        fail(f"--json: there is no folder {path.parent}")


@contextmanager
def extras() -> Iterator[None]:
    """Around imports that `pip install ssjf` alone does not bring."""
    try:
        yield
    except ModuleNotFoundError as missing:
        fail(f"this needs {missing.name}: pip install 'ssjf[cpu,bench]'")
