"""Published arrival traces to the CSV that `trace` reads.

    azure-2023  CSV: TIMESTAMP, ContextTokens, GeneratedTokens   (Patel et al., ISCA 2024)
    mooncake    JSON lines: timestamp (ms), input_length, output_length   (Qin et al., FAST 2025)
    servegen    a folder of clients, which are sampled: see `convert_servegen`

Owns their forms and the file that is written, times in whole milliseconds from the first
request. A new form is a function here and a line in `FORMS`. Called by `ssjf bench convert-trace`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Final, NamedTuple

from ssjf_bench.trace import COLUMNS, TraceError, opened, table, write_lines

AZURE_COLUMNS: Final = ("TIMESTAMP", "ContextTokens", "GeneratedTokens")
MOONCAKE_KEYS: Final = ("timestamp", "input_length", "output_length")

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MICROSECOND: Final = timedelta(microseconds=1)


class Arrival(NamedTuple):
    """One request of a trace."""

    time_us: int
    """Microseconds on the published file's clock: whole, so that rounding is the same anywhere."""
    input_tokens: int
    output_tokens: int


def convert(form: str, paths: Sequence[Path]) -> list[Arrival]:
    """The requests of published files of one form, which share a clock, in order of arrival.

    Raises TraceError naming file and line for what is malformed or has no request.
    """
    found = [arrival for path in paths for arrival in FORMS[form](path)]
    if not found:
        raise TraceError(f"{paths[0]}: no requests")
    return sorted(found)


def write(arrivals: Sequence[Arrival], out: Path) -> None:
    """Writes .csv or .csv.gz, the same bytes for the same arrivals, the first of them at 0.

    Raises TraceError where it cannot be written.
    """
    if not out.name.endswith((".csv", ".csv.gz")):
        raise TraceError(f"{out}: a trace is written as .csv or .csv.gz")
    lines = [",".join(COLUMNS)]
    for time_us, given, made in arrivals:
        time_ms = round((time_us - arrivals[0].time_us) / 1e3)
        lines.append(f"{time_ms / 1e3:.3f},{given},{made}")
    write_lines(out, lines)


def _read_azure(path: Path) -> Iterator[Arrival]:
    return (arrival for _, arrival in table(path, AZURE_COLUMNS, _azure))


def _azure(row: Mapping[str, str]) -> Arrival:
    stamp, given, made = (row[name] for name in AZURE_COLUMNS)
    return Arrival(_microseconds(stamp), tokens(int(given)), tokens(int(made)))


def _microseconds(stamp: str) -> int:
    time = datetime.fromisoformat(stamp)
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - EPOCH) // MICROSECOND


def _read_mooncake(path: Path) -> Iterator[Arrival]:
    with opened(path) as lines:
        for number, line in enumerate(lines, start=1):
            if not line.strip():
                continue
            try:
                entry = json.loads(line)
                time_ms, given, made = (entry[name] for name in MOONCAKE_KEYS)
                yield Arrival(round(time_ms * 1e3), tokens(given), tokens(made))
            except KeyError as error:
                raise TraceError(f"{path}:{number}: no {error}") from error
            except (TypeError, ValueError, OverflowError) as error:
                raise TraceError(f"{path}:{number}: {error}") from error


def tokens(value: object) -> int:
    """The value, where it is a length. Raises ValueError."""
    if type(value) is not int or value < 0:
        raise ValueError(f"no number of tokens: {value!r}")
    return value


FORMS: Final[Mapping[str, Callable[[Path], Iterator[Arrival]]]] = {
    "azure-2023": _read_azure,
    "mooncake": _read_mooncake,
}
