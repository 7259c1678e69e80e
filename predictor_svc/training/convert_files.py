"""The entries of published data sets: JSON arrays, JSON lines and Parquet.

Owns the forms of files, told by name and first character, and the place of an entry for
errors. Knows nothing of what an entry holds: see `convert_forms`. Parquet is read a few
rows at a time and JSON lines one by one; an array is loaded whole.
"""

from __future__ import annotations

import importlib
import json
import zlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

from predictor_svc.training.rows import DataError, Row, open_text, read_rows

PARQUET_ROWS: Final = 512
"""Rows held at once: a conversation can be long."""
PARQUET_MISSING: Final = "reading Parquet needs pyarrow: pip install 'ssjf[convert]'"


def read_entries(path: Path, parquet_columns: Sequence[str] = ()) -> Iterator[Row]:
    """Every entry of a file; of a Parquet file the named columns that it has.

    Raises DataError naming the file, and the entry where there is one.
    """
    if path.suffix == ".parquet":
        return _read_parquet(path, parquet_columns)
    return _read_array(path) if _is_array(path) else read_rows(path)


def _is_array(path: Path) -> bool:
    try:
        with open_text(path) as content:
            while (character := content.read(1)).isspace():
                pass
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path) from error
    return character == "["


def _read_array(path: Path) -> Iterator[Row]:
    try:
        with open_text(path) as content:
            entries = json.load(content)
    except json.JSONDecodeError as error:
        raise DataError(f"not JSON: {error.msg}", path, error.lineno) from error
    except (OSError, EOFError, zlib.error, ValueError, RecursionError) as error:
        raise DataError(f"cannot be read: {error}", path) from error
    for number, entry in enumerate(entries, start=1):
        if not isinstance(entry, dict):
            raise DataError("expected a JSON object", path, _place(number))
        yield Row(path, _place(number), entry)


def _read_parquet(path: Path, columns: Sequence[str]) -> Iterator[Row]:
    try:
        # Untyped, and no dependency: whoever has no Parquet files need not have it.
        arrow: Any = importlib.import_module("pyarrow")
        parquet: Any = importlib.import_module("pyarrow.parquet")
    except ImportError as error:
        raise DataError(PARQUET_MISSING, path) from error
    number = 0
    try:
        with parquet.ParquetFile(path) as file:
            there = [name for name in columns if name in file.schema_arrow.names]
            for batch in file.iter_batches(batch_size=PARQUET_ROWS, columns=there):
                for entry in batch.to_pylist():
                    number += 1
                    yield Row(path, _place(number), entry)
    except (OSError, arrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path, _place(number + 1)) from error


def _place(number: int) -> str:
    return f"entry {number}"
