"""`ssjf bench scheduler`: what a scheduling decision costs.

Owns the options and the table. What is measured is `ssjf_bench`'s; imported when the
command runs. Registered by `bench`.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import JsonOption, write_json

POLICIES = ["fcfs", "ssjf", "bounded-ssjf", "default"]


def scheduler(
    json_file: JsonOption,
    policy: Annotated[list[str] | None, typer.Option(help="Policies; several times.")] = None,
    queued: Annotated[list[int] | None, typer.Option(min=1, help="Waiting jobs.")] = None,
    tenants: Annotated[int, typer.Option(min=1, help="Tenants that the jobs are of.")] = 1,
    turns: Annotated[int, typer.Option(min=1, help="Jobs that come, start and end.")] = 20_000,
) -> None:
    """Times `submit`, `finished` and `next_batch` of the core with a queue of each length."""
    with extras():
        from ssjf_bench import scheduler_speed
    check_output(json_file)
    rows = []
    for name in policy or POLICIES:
        for waiting in queued or [1_000, 10_000, 100_000]:
            load = scheduler_speed.SpeedLoad(name, waiting, turns, tenants=tenants)
            with console.status(f"{name}, {waiting:,} queued"):
                try:
                    rows.append(_row(load, scheduler_speed.measure(load)))
                except ValueError as error:
                    fail(str(error))
    write_json(json_file, {"results": rows})
    Console().print(_table(rows))


def _row(load: Any, speed: Any) -> dict[str, Any]:
    row: dict[str, Any] = {
        "policy": load.policy,
        "queued": load.queued,
        "turns": load.turns,
        "batch": load.batch,
        "tenants": load.tenants,
    }
    for name in ("submit", "finish", "decide"):
        times = getattr(speed, name)
        row[f"{name}_p50_ms"] = times.p50_ms
        row[f"{name}_p99_ms"] = times.p99_ms
    return row | {"job_cpu_us": speed.turn_us, "jobs_per_s": 1e6 / speed.turn_us}


def _table(rows: list[dict[str, Any]]) -> Table:
    made = Table(title="Scheduling core, times in µs", box=box.SIMPLE_HEAD)
    made.add_column("\npolicy")
    for name in (
        *("\nqueued", "submit\np50", "finish\np50", "decide\np50", "decide\np99"),
        *("a job,\nCPU", "\njobs/s"),
    ):
        made.add_column(name, justify="right")
    for row in rows:
        made.add_row(*_cells(row))
    return made


def _cells(row: Mapping[str, Any]) -> list[str]:
    names = ("submit_p50_ms", "finish_p50_ms", "decide_p50_ms", "decide_p99_ms")
    times = [f"{1e3 * row[name]:,.1f}" for name in names]
    rates = [f"{row['job_cpu_us']:,.1f}", f"{row['jobs_per_s']:,.0f}"]
    return [row["policy"], f"{row['queued']:,}", *times, *rates]
