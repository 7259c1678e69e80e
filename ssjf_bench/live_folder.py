"""The folder of a live evaluation: its plan, what was measured before, finished runs.

Owns what makes a command resumable: a second call with the same plan finds capacities,
recorded lengths and the runs that counted, and another plan is refused. Every file appears
whole or not at all. Called by `ssjf bench live`.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from ssjf_bench import live_plan, live_records
from ssjf_bench.live_plan import Engine, Plan, PlannedRun
from ssjf_bench.live_records import RecordsError, Run

PLAN: Final = "plan.json"
CAPACITIES: Final = "capacities.json"
LENGTHS: Final = "lengths.json"
ORACLE_LENGTHS: Final = "oracle-lengths.json"


class OtherPlan(Exception):
    """The folder holds another plan's records; the message says what differs."""


class LiveFolder:
    """A folder that belongs to one plan. Raises OtherPlan, RecordsError.

    Nothing is written before `claim`.
    """

    def __init__(self, path: Path, plan: Plan) -> None:
        self.path = path
        self._plan = plan
        kept = self._read(PLAN)
        if kept is None and live_records.read_folder(path):
            raise OtherPlan(f"{path} has records without a plan; take another folder")
        if kept is not None and kept["digest"] != plan.digest:
            differing = "\n  ".join(live_plan.differences(kept["plan"], plan.to_json()))
            raise OtherPlan(f"{path} holds another plan; take another folder\n  {differing}")

    def claim(self) -> None:
        """Makes the folder where it is missing, and the plan its own."""
        self.path.mkdir(parents=True, exist_ok=True)
        self._write(PLAN, {"digest": self._plan.digest, "plan": self._plan.to_json()})

    def capacity(self, engine: Engine) -> float | None:
        """Requests a second as measured before; None where they were not."""
        found = (self._read(CAPACITIES) or {}).get(engine.name)
        return None if found is None else float(found["requests_s"])

    def known_capacity(self, engine: Engine) -> float | None:
        """As the plan gives it, or as measured before."""
        return self._plan.capacities.get(engine.name) or self.capacity(engine)

    def keep_capacity(self, engine: Engine, requests_s: float, **how: Any) -> None:
        """Remembers a capacity, and how it was measured."""
        known = self._read(CAPACITIES) or {}
        self._write(CAPACITIES, known | {engine.name: {"requests_s": requests_s, **how}})

    def capacities(self) -> Mapping[str, Any]:
        """All that were measured, by name of the engine's setting."""
        return self._read(CAPACITIES) or {}

    def lengths(self) -> Mapping[str, int] | None:
        """Real text's lengths by request id; None where they were not recorded."""
        return self._read(LENGTHS)

    def keep_lengths(self, lengths: Mapping[str, int]) -> None:
        """Remembers the lengths of the recording pass."""
        self._write(LENGTHS, lengths)

    def write_oracle_lengths(self, lengths: Mapping[str, int]) -> Path:
        """The file that the gateway reads under `oracle`."""
        return self._write(ORACLE_LENGTHS, lengths)

    def keep(self, run: Run) -> Path:
        """Writes a run, whether it counts or not."""
        return live_records.write(self.path, run)

    def counts(self, name: str) -> bool:
        """Whether a run is there and valid: then it need not be run again."""
        path = self.file(name)
        return path.exists() and not live_records.read(path).header.invalid

    def missing(self, runs: Sequence[PlannedRun]) -> list[PlannedRun]:
        """Those of `runs` that are not there or do not count, in their order."""
        return [run for run in runs if not self.counts(run.name)]

    def in_order(self) -> list[Run]:
        """Every run that is there, in the order of the plan."""
        files = [self.file(run.name) for run in self._plan.runs]
        return [live_records.read(file) for file in files if file.exists()]

    def file(self, name: str) -> Path:
        """Where a run's records are."""
        return self.path / f"{name}{live_records.SUFFIX}"

    def _read(self, name: str) -> dict[str, Any] | None:
        path = self.path / name
        try:
            content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise RecordsError(f"{path}: {error}") from error
        return content

    def _write(self, name: str, content: Mapping[str, Any]) -> Path:
        path = self.path / name
        partial = path.with_name(f".{name}.{os.getpid()}.partial")
        partial.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
        partial.replace(path)
        return path
