"""What a live run leaves behind: a header, and a row for each of its requests.

Owns both types and the file that holds them, one .jsonl.gz a run: the header on the first
line under the key "header", then a row a line. Files appear whole or not at all, and the
same content gives the same bytes, so that a checksum means something. Knows no gateway and
no figures; written by `live_run`'s caller, read by `live_report` and `live_against_sim`.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Final, TypeVar

SUFFIX: Final = ".jsonl.gz"
OK: Final = "OK"


class RecordsError(Exception):
    """A file of records cannot be used; the message names it."""


@dataclass(frozen=True, slots=True)
class LiveRow:
    """One request of one run; times are seconds from the start of the run's replay."""

    run: str
    """Name of the run, e.g. "continuous-16-0.9-ssjf-1"."""
    policy: str
    """Name of the policy, as it was asked for."""
    mode: str
    """Batching: none, dynamic or continuous."""
    max_batch: int
    """Requests that the engine runs at once."""
    load: float
    """Offered requests a second as a share of measured capacity."""
    repeat: int
    """From 1."""
    request_id: str
    """Unique in the run, the same in all runs of the same load."""
    prompt_id: str
    """The prompt's name in its file."""
    category: str
    """Where the prompt is from; empty where that is unknown."""
    llm: str
    """The LLM whose answer's length is forced; empty for real text and where unknown."""
    seed: int
    """Of its sampling."""
    measured: bool
    """Whether it counts; False for warm-up."""
    arrival_s: float
    """When it was due."""
    sent_s: float
    """When it was sent."""
    queued_s: float | None
    """When the client learned that it is queued."""
    started_s: float | None
    """When the client learned that an engine has it."""
    first_token_s: float | None
    """When its first token came."""
    end_s: float | None
    """When its stream ended."""
    prompt_tokens: int | None
    """Length of the prompt, chat template applied."""
    predicted_tokens: float | None
    """What it was last queued under."""
    predicted_by_model: bool | None
    """Whether that came from the predictor; False for the prior."""
    forced_tokens: int | None
    """The answer's forced length; None for real text."""
    output_tokens: int
    """Tokens that came."""
    finish_reason: str | None
    """Name of the FinishReason; None where it did not finish."""
    outcome: str
    """OK, or the status code's name."""
    error: str
    """Reason and message of a failure; else empty."""

    @property
    def ok(self) -> bool:
        """Whether the answer is complete."""
        return self.outcome == OK

    @property
    def jct_s(self) -> float | None:
        """Job completion time: from its arrival to its end; None unless it finished."""
        return self.end_s - self.arrival_s if self.ok and self.end_s is not None else None


@dataclass(frozen=True, slots=True)
class RunHeader:
    """What one run was, and whether it counts."""

    run: str
    """Its name."""
    policy: str
    """Name of the policy, as it was asked for."""
    options: Mapping[str, Any]
    """The policy's settings that were given."""
    mode: str
    """Batching: none, dynamic or continuous."""
    max_batch: int
    """Requests that the engine runs at once."""
    max_wait_ms: float
    """Dynamic batching: how long a batch waits for company at most, under every policy."""
    load: float
    """Offered requests a second as a share of capacity."""
    offered_requests_s: float
    """Mean rate of the arrivals."""
    capacity_requests_s: float
    """What the full engine finishes, measured (or given) for this mode and batch."""
    repeat: int
    """From 1."""
    seed: int
    """Of prompts and arrivals."""
    arrivals: str
    """The arrival process, as it was asked for."""
    prompts: str
    """The prompts, as they were asked for."""
    hardware: Mapping[str, Any]
    """As `provenance.hardware`."""
    flags: Mapping[str, Mapping[str, Any]]
    """Settings given to each service, by its name; paths by their last part."""
    cpu_s: Mapping[str, float]
    """Processor time over the window of each service and of "generator", this client."""
    window_s: float
    """From the first arrival to the last end."""
    facts: Mapping[str, Any]
    """What else was seen: lag, shares of priors, KV tokens wanted and there, and so on."""
    invalid: Sequence[str]
    """Why the run does not count; empty where it does."""


@dataclass(frozen=True, slots=True)
class Run:
    """A header and its rows."""

    header: RunHeader
    """What it was."""
    rows: Sequence[LiveRow]
    """In order of arrival."""


def write(folder: Path, run: Run) -> Path:
    """Writes FOLDER/RUN.jsonl.gz, replacing what is there in one go."""
    path = folder / f"{run.header.run}{SUFFIX}"
    lines = [{"header": asdict(run.header)}, *map(asdict, run.rows)]
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    partial = path.with_name(f".{path.name}.{os.getpid()}.partial")
    partial.write_bytes(gzip.compress(text.encode(), mtime=0))
    partial.replace(path)
    return path


def read(path: Path) -> Run:
    """The run in a file. Raises RecordsError."""
    try:
        with gzip.open(path, "rt", encoding="utf-8") as lines:
            first, *rest = map(json.loads, lines)
        return Run(_made(RunHeader, first["header"]), tuple(_made(LiveRow, row) for row in rest))
    except (OSError, EOFError, ValueError, KeyError, TypeError) as error:
        raise RecordsError(f"{path}: {error}") from error


def read_folder(folder: Path) -> list[Run]:
    """Every run in a folder, by name. Raises RecordsError."""
    return [read(path) for path in sorted(folder.glob(f"[!.]*{SUFFIX}"))]


def sha256(path: Path) -> str:
    """The file's checksum, in hex."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


Made = TypeVar("Made", LiveRow, RunHeader)


def _made(kind: type[Made], values: Any) -> Made:
    """An instance of exactly these values; ValueError where they do not fit."""
    names = {field.name for field in fields(kind)}
    if set(values) != names:
        raise ValueError(f"not the fields of {kind.__name__}: {sorted(names ^ set(values))}")
    return kind(**values)
