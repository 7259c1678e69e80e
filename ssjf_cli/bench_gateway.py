"""`ssjf bench gateway`: the real gateway before an engine without a model.

Owns the cases, the processes of each and the table. The clients and the timing are
`ssjf_bench`'s. Called by `bench`.
"""

from __future__ import annotations

import asyncio
import os
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Final

import typer
from rich import box
from rich.console import Console
from rich.table import Table

from ssjf_cli.bench_failure import check_output, console, fail
from ssjf_cli.bench_json import JsonOption, write_json

START_TIMEOUT_S: Final = 60.0
ANSWER_TOKENS: Final = 50_000
OVERHEAD_STEP_MS: Final = 2.0
Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Options:
    """What is measured, and for how long."""

    seconds: float
    streams: int
    queued: int
    requests: int
    clients: int
    step_ms: float
    delta_interval_ms: int


def gateway(
    json_file: JsonOption,
    seconds: Annotated[float, typer.Option(min=0.2, help="For each load.")] = 8.0,
    streams: Annotated[int, typer.Option(min=1, help="Answers streamed at once.")] = 256,
    queued: Annotated[int, typer.Option(min=0, help="Requests held in the queue; 0: none.")] = (
        10_000
    ),
    requests: Annotated[int, typer.Option(min=1, help="One at a time, on an idle system.")] = 500,
    clients: Annotated[int, typer.Option(min=1, help="Client processes.")] = 1,
    step_ms: Annotated[float, typer.Option(min=0, help="Time between two steps; 0: none.")] = 0.0,
    delta_interval_ms: Annotated[
        int, typer.Option(min=1, help="Time between two deltas, where they are coalesced.")
    ] = 50,
    cores: Annotated[int, typer.Option(min=1, help="Cores that everything together may use.")] = 2,
) -> None:
    """What the gateway adds to a request, delivers and holds, on two cores."""
    from ssjf_bench.gateway_load import LoadError
    from ssjf_cli.process import StackError

    check_output(json_file)
    options = Options(seconds, streams, queued, requests, clients, step_ms, delta_interval_ms)
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:cores])  # children inherit it
    try:
        with console.status("") as status:
            results = measure(options, status.update)
    except (StackError, LoadError, OSError) as error:
        fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None
    write_json(json_file, {"cores": cores} | results)
    Console().print(table(results))


def measure(options: Options, say: Say) -> dict[str, Any]:
    """All cases, as plain data. Raises StackError, LoadError."""
    results: dict[str, Any] = {"streams": options.streams}
    say("overhead")
    results["overhead"] = _overhead(options)
    for name, interval_ms in (("every_step", 0), ("coalesced", options.delta_interval_ms)):
        say(name)
        results[name] = _streams(options, interval_ms)
    if options.queued:
        say("queued")
        results["queued"] = _queued(options)
    return results


def _overhead(options: Options) -> dict[str, Any]:
    from ssjf_bench import gateway_overhead

    with _engine(step_ms=OVERHEAD_STEP_MS) as engine:
        direct = asyncio.run(gateway_overhead.direct(engine, options.requests))
        with _gateway(engine) as (address, _):
            through = asyncio.run(gateway_overhead.through_gateway(address, options.requests))
    added = {
        f"added_{name}_p50_ms": getattr(through, name).p50_ms - getattr(direct, name).p50_ms
        for name in ("first_token", "whole")
    }
    return {"direct": asdict(direct), "through_gateway": asdict(through), **added}


def _streams(options: Options, interval_ms: int) -> dict[str, Any]:
    from ssjf_bench import gateway_load

    with (
        _engine(step_ms=options.step_ms, max_sequences=options.streams) as engine,
        _gateway(engine, max_batch=options.streams) as (address, pid),
    ):
        load = gateway_load.Load(
            streams=options.streams,
            clients=options.clients,
            seconds=options.seconds,
            answer_tokens=ANSWER_TOKENS,
            delta_interval_ms=interval_ms,
            gateway_pid=pid,
        )
        return asdict(gateway_load.stream(address, load))


def _queued(options: Options) -> dict[str, Any]:
    from ssjf_bench import gateway_load

    with (
        _engine(step_ms=1000.0, max_sequences=1) as engine,
        _gateway(engine, max_queued=options.queued + 1) as (address, pid),
    ):
        return asdict(gateway_load.hold(address, options.queued, options.clients, pid))


@contextmanager
def _engine(*, step_ms: float, max_sequences: int = 256) -> Iterator[str]:
    flags = {"step_ms": step_ms, "max_sequences": max_sequences}
    with _process("engine", flags, "ssjf_bench.paced_engine") as (address, _):
        yield address


@contextmanager
def _gateway(engine: str, **flags: Any) -> Iterator[tuple[str, int]]:
    given = {"engines": engine, "predictor": "none", "benchmark": True, **flags}
    with _process("gateway", given) as started:
        yield started


@contextmanager
def _process(
    name: Any, flags: Mapping[str, Any], module: str | None = None
) -> Iterator[tuple[str, int]]:
    """A service that serves; yields its address and process id."""
    from ssjf_cli.process import Service, ServiceProcess, StackError, free_port

    with tempfile.TemporaryDirectory(prefix="ssjf-bench-") as folder:
        service = Service(name, "127.0.0.1", free_port(), flags, module)
        process = ServiceProcess(service, Path(folder) / f"{name}.log")
        try:
            end_s = time.monotonic() + START_TIMEOUT_S
            while not process.is_serving():
                process.check()
                if time.monotonic() > end_s:
                    raise StackError(process.report("does not serve"))
                time.sleep(0.05)
            yield service.address, process.pid
            process.check()
        finally:
            process.stop(timeout_s=5.0)


def table(results: Mapping[str, Any]) -> Table:
    """A line for each figure."""
    made = Table(title="The gateway on an idle system and under load", box=box.SIMPLE_HEAD)
    made.add_column("what")
    made.add_column("measured", justify="right")
    overhead = results["overhead"]
    made.add_row("added to the first token, p50", f"{overhead['added_first_token_p50_ms']:.2f} ms")
    made.add_row("added to 16 tokens, p50", f"{overhead['added_whole_p50_ms']:.2f} ms")
    for name in ("every_step", "coalesced"):
        found = results[name]
        label = f"{results['streams']} streams, {name.replace('_', ' ')}"
        made.add_row(f"{label}: messages", f"{found['messages_per_s']:,.0f} /s")
        made.add_row(f"{label}: tokens", f"{found['tokens_per_s']:,.0f} /s")
        cores = f"{found['gateway_cores']:.2f}; {max(found['client_cores']):.2f}"
        made.add_row(f"{label}: cores of gateway; busiest client", cores)
        spent = f"{found['gateway_us_a_message']:.1f}; {found['gateway_us_a_token']:.1f} µs"
        made.add_row(f"{label}: gateway's CPU a message; a token", spent)
    if held := results.get("queued"):
        resident = f"{held['resident_bytes'] / 2**20:,.0f} MiB"
        made.add_row(f"resident with {held['streams']:,} queued", resident)
        made.add_row("to queue them", f"{held['open_s']:.1f} s")
    return made
