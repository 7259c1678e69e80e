"""JSON lines and CSV, plain or gzipped, read a row at a time.

Owns the typed access to a row's columns, whichever form it has, and the one error for
malformed data, which names file, line and column. Knows nothing of what the columns
mean: see `data`. The file's name tells its form: `.csv`, `.csv.gz`, anything else JSON.
"""

from __future__ import annotations

import csv
import gzip
import json
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

MAX_NUMBER = 1_000_000_000
"""What is longer than this is no length."""
MAX_CELL_CHARACTERS = 1 << 26

_UNREADABLE = (OSError, EOFError, zlib.error, UnicodeDecodeError)
_TRUTHS = {"true": True, "false": False}


class DataError(ValueError):
    """A file that cannot be read as data; says file, line and column."""

    def __init__(self, problem: str, path: Path, line: int | str = 0, column: str = "") -> None:
        where = f"{path}:{line}" if line else str(path)
        super().__init__(
            f"{where}: column {column!r}: {problem}" if column else f"{where}: {problem}"
        )


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a file, its columns not yet checked."""

    path: Path
    line: int | str
    """Line on which it begins; or what says its place where a file has no lines."""
    columns: Mapping[str, Any]
    is_text: bool = False
    """CSV: every value is text, and an empty one is null."""

    def error(self, column: str, problem: str) -> DataError:
        """The error to raise for one of this row's columns."""
        return DataError(problem, self.path, self.line, column)

    def has(self, *names: str) -> bool:
        """Whether the row has one of these columns, null or not."""
        return any(name in self.columns for name in names)

    def find(self, *names: str) -> str | None:
        """The first of `names` that the row has with a value other than null."""
        return next((name for name in names if not self._is_null(name)), None)

    def text(self, *names: str, default: str | None = None) -> str:
        """The string under the first of `names` present; an error where none is and no default."""
        name = self.find(*names)
        if name is None:
            if self.is_text and self.has(*names):
                return "" if default is None else default
            if default is None:
                others = f" (or {', '.join(names[1:])})" if names[1:] else ""
                raise self.error(names[0], f"missing{others}")
            return default
        value = self.columns[name]
        if isinstance(value, int) and not isinstance(value, bool):
            return str(value)  # ids are numbers in some files
        if not isinstance(value, str):
            raise self.error(name, f"expected text, found {type(value).__name__}")
        self.check_unicode(name, value)
        return value

    def numbers(self, name: str) -> list[int]:
        """The whole number, or the list of them, under `name`; all >= 0."""
        return [self._number(name, value) for value in self._several(name, _number_in_text)]

    def truths(self, name: str) -> list[bool]:
        """The truth value, or the list of them, under `name`."""
        values = self._several(name, lambda word: _TRUTHS.get(word.lower()))
        if not all(isinstance(value, bool) for value in values):
            raise self.error(name, f"expected true or false, found {_shown(self.columns[name])}")
        return values

    def objects(self, name: str) -> list[Mapping[str, Any]]:
        """The list of objects under `name`; in CSV as JSON."""
        value = self.columns[name]
        if self.is_text:
            try:
                value = json.loads(value)
            except (ValueError, RecursionError) as error:
                raise self.error(name, f"expected a JSON list: {error}") from error
        if not isinstance(value, list):
            raise self.error(name, f"expected a list, found {type(value).__name__}")
        if not all(isinstance(each, dict) for each in value):
            raise self.error(name, "expected a list of objects")
        return value

    def check_unicode(self, name: str, value: str) -> None:
        """Raises DataError for half of a surrogate pair, which JSON can hold and no tokenizer."""
        try:
            if not value.isascii():
                value.encode()
        except UnicodeEncodeError as error:
            raise self.error(name, f"not Unicode text: {error.reason}") from error

    def _is_null(self, name: str) -> bool:
        value = self.columns.get(name)
        return value is None or (self.is_text and value == "")

    def _several(self, name: str, parse: Callable[[str], object]) -> list[Any]:
        """A value alone as a list of one; cells as values between spaces, commas, brackets."""
        value = self.columns[name]
        values: list[Any]
        if self.is_text:
            cell = re.fullmatch(r"\s*(\[?)(.*?)(\]?)\s*", value, re.DOTALL)
            if cell is None or bool(cell[1]) != bool(cell[3]):
                raise self.error(name, f"cannot be read: {_shown(value)}")
            words = re.split(r"\s*,\s*|\s+", cell[2].strip())
            values = [parse(word) for word in words] if words != [""] else []
            if None in values:
                raise self.error(name, f"cannot be read: {_shown(value)}")
        else:
            values = value if isinstance(value, list) else [value]
        if not values:
            raise self.error(name, "expected a list with at least one entry")
        return values

    def _number(self, name: str, value: object) -> int:
        if type(value) is float and value.is_integer():
            value = int(value)
        if type(value) is not int:
            raise self.error(name, f"expected whole numbers >= 0, found {_shown(value)}")
        if not 0 <= value <= MAX_NUMBER:
            raise self.error(name, f"expected >= 0 and at most {MAX_NUMBER}, found {_shown(value)}")
        return value


def read_rows(path: Path) -> Iterator[Row]:
    """Every row of a .csv, .jsonl or .json (one object a line) file, gzipped or not.

    Raises DataError where the file is missing or broken, a line is no JSON object, or a
    row of a CSV file has another number of cells than its header.
    """
    return _read_csv(path) if is_csv(path) else _read_json_lines(path)


def is_csv(path: Path) -> bool:
    """Whether the name says CSV, below .gz."""
    return Path(path.name.removesuffix(".gz")).suffix.lower() == ".csv"


def open_text(path: Path, newline: str | None = None) -> IO[str]:
    """Opens for reading, through gzip where the name ends in .gz."""
    encoding = "utf-8-sig"  # a byte order mark is what spreadsheets write
    if path.suffix == ".gz":
        return gzip.open(path, "rt", encoding=encoding, newline=newline)
    return path.open(encoding=encoding, newline=newline)


def _read_json_lines(path: Path) -> Iterator[Row]:
    line = 0
    try:
        with open_text(path) as lines:
            for line, content in enumerate(lines, start=1):
                if content.strip():
                    yield Row(path, line, _parse(content, path, line))
    except _UNREADABLE as error:
        raise DataError(f"cannot be read: {error}", path, line) from error


def _parse(content: str, path: Path, line: int) -> dict[str, Any]:
    try:
        columns = json.loads(content)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg} at character {error.pos}", path, line) from error
    except (ValueError, RecursionError) as error:  # numbers and nesting without end
        raise DataError(f"not JSON: {error}", path, line) from error
    if not isinstance(columns, dict):
        raise DataError("expected a JSON object", path, line)
    return columns


def _read_csv(path: Path) -> Iterator[Row]:
    # The module's limit is for all of a process; its default is below a long prompt.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_CELL_CHARACTERS))
    line = 0
    try:
        with open_text(path, newline="") as content:
            cells = csv.reader(content, strict=True)
            names = _header(next(cells, []), path)
            line = cells.line_num + 1
            for row in cells:
                if row:
                    _check_cells(row, names, path, line)
                    yield Row(path, line, dict(zip(names, row, strict=True)), is_text=True)
                line = cells.line_num + 1
    except csv.Error as error:
        raise DataError(f"not CSV: {error}", path, line or 1) from error
    except _UNREADABLE as error:
        raise DataError(f"cannot be read: {error}", path, line) from error


def _header(cells: Iterable[str], path: Path) -> list[str]:
    names = [cell.strip() for cell in cells]
    if not any(names):
        raise DataError("no header with the columns' names", path, 1)
    for name in names:
        if names.count(name) > 1:
            raise DataError("is there twice", path, 1, name)
    return names


def _check_cells(row: list[str], names: list[str], path: Path, line: int) -> None:
    if len(row) < len(names):
        raise DataError("missing: the row ends before it", path, line, names[len(row)])
    if len(row) > len(names):
        raise DataError(f"{len(row)} cells, the header has {len(names)}", path, line)


def _number_in_text(word: str) -> float | int | None:
    """None where it is no number; 12.0 is how tables with gaps are written."""
    try:
        return int(word) if re.fullmatch(r"[+-]?\d+", word, re.ASCII) else float(word)
    except ValueError:
        return None


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:60]}…"
