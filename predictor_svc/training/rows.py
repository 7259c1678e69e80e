"""JSON lines, plain or gzipped, read and written a row at a time.

Owns the typed access to a row's columns and the one error for malformed data, which
names file, line and column. Knows nothing of what the columns mean: see `data`.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any


class DataError(ValueError):
    """A file that cannot be read as data; says file, line and column."""

    def __init__(self, problem: str, path: Path, line: int = 0, column: str = "") -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(
            f"{where}: column {column!r}: {problem}" if column else f"{where}: {problem}"
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One line of a file, its columns not yet checked."""

    path: Path
    line: int
    columns: Mapping[str, Any]

    def error(self, column: str, problem: str) -> DataError:
        """The error to raise for one of this row's columns."""
        return DataError(problem, self.path, self.line, column)

    def find(self, *names: str) -> str | None:
        """The first of `names` that the row has with a value other than null."""
        return next((name for name in names if self.columns.get(name) is not None), None)

    def text(self, *names: str, default: str | None = None) -> str:
        """The string under the first of `names` present; an error where none is and no default."""
        name = self.find(*names)
        if name is None:
            if default is None:
                raise self.error(names[0], f"missing (or one of {', '.join(names)})")
            return default
        value = self.columns[name]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)  # ids are numbers in some files
        if not isinstance(value, str):
            raise self.error(name, f"expected text, found {type(value).__name__}")
        return value

    def numbers(self, name: str) -> list[int]:
        """The list of whole numbers >= 0 under `name`."""
        values = self.listed(name)
        if not all(type(value) is int and value >= 0 for value in values):
            raise self.error(name, "expected a list of whole numbers >= 0")
        return values

    def listed(self, name: str) -> list[Any]:
        """The list, with at least one entry, under `name`."""
        values = self.columns[name]
        if not isinstance(values, list) or not values:
            raise self.error(name, "expected a list with at least one entry")
        return values


def read_rows(path: Path) -> Iterator[Row]:
    """Every line of a .jsonl or .jsonl.gz file that is not blank.

    Raises DataError where the file is missing or broken or a line is no JSON object.
    """
    line = 0
    try:
        with open_text(path) as lines:
            for line, content in enumerate(lines, start=1):
                if content.strip():
                    yield Row(path, line, _parse(content, path, line))
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path, line) from error


def open_text(path: Path) -> IO[str]:
    """Opens for reading, through gzip where the name ends in .gz."""
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding="utf-8")
    return path.open(encoding="utf-8")


def _parse(content: str, path: Path, line: int) -> dict[str, Any]:
    try:
        columns = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at character {error.pos}", path, line) from error
    if not isinstance(columns, dict):
        raise DataError("expected a JSON object", path, line)
    return columns
