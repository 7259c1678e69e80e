"""`ssjf demo`: what SSJF gains, measured on this machine in a few minutes.

Starts the services and replays the shipped prompts as a burst under FCFS, SSJF and
an oracle, and as a Poisson stream under FCFS and SSJF. Owns the order of the phases;
replay and arithmetic are `ssjf_bench`'s, what is shown and written `demo_report`'s.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ssjf_bench import replay, report, workload
from ssjf_bench.replay import Record
from ssjf_bench.workload import Request, Workload
from ssjf_cli import demo_report
from ssjf_cli.demo_report import DemoSettings, Results
from ssjf_cli.stack import Stack, StackOptions

FULL = DemoSettings()
PLAIN = {"fallback_tau_b": -1, "skip_idle_predictions": False}
"""The policy alone: never replaced by another, every request queued under its prediction."""
QUICK = DemoSettings(
    prompts=6, max_tokens=16, max_sequences=2, warm_up_requests=2, warm_up_tokens=4
)


def run(settings: DemoSettings, out: Path, console: Console) -> int:
    """The whole demo; the exit code, 1 where a request failed.

    Raises StackError where a service does not start or ends, WorkloadError for
    prompts that cannot be read.
    """
    prompts = workload.shipped_prompts()[: settings.prompts]
    requests = workload.requests(
        prompts,
        max_tokens=settings.max_tokens,
        temperature=settings.temperature,
        first_seed=settings.first_seed,
    )
    out.mkdir(parents=True, exist_ok=True)
    options = StackOptions(
        engine={"max_sequences": settings.max_sequences},
        gateway={"policy": "fcfs"},
        log_dir=out / "logs",
    )
    console.print("starting engine, predictor and gateway …")
    with Stack(options) as stack, _progress(console, settings, len(requests)) as (begin, advance):
        results = _Passes(stack, settings, requests, out, advance).run(begin)
    demo_report.write(results, out)
    demo_report.show(results, out, console)
    return 1 if results.failures() else 0


class _Passes:
    """Replays the passes one after the other, the gateway restarted before each."""

    def __init__(
        self,
        stack: Stack,
        settings: DemoSettings,
        requests: Sequence[Request],
        out: Path,
        advance: Callable[[Record], None],
    ) -> None:
        self._stack = stack
        self._settings = settings
        self._requests = requests
        self._oracle_lengths = out / "oracle-lengths.json"
        self._advance = advance

    def run(self, begin: Callable[[str], None]) -> Results:
        """All passes; `begin` is told the name of each phase."""
        begin("warm-up")
        self._replay(workload.burst(self._warm_up()))
        begin("burst, fcfs")
        burst = workload.burst(self._requests)
        first = self._pass("fcfs", burst)
        self._write_oracle_lengths(first)
        results = Results(self._settings, report.capacity_requests_per_s(first))
        results.records["burst", "fcfs"] = first
        stream = workload.poisson(
            self._requests, rate_per_s=results.rate_per_s, seed=self._settings.first_seed
        )
        for arrivals, policy, load in (
            ("burst", "ssjf", burst),
            ("burst", "oracle", burst),
            ("poisson", "fcfs", stream),
            ("poisson", "ssjf", stream),
        ):
            begin(f"{arrivals}, {policy}")
            results.records[arrivals, policy] = self._pass(policy, load)
        return results

    def _pass(self, policy: str, load: Workload) -> list[Record]:
        # The engine keeps its model and its warm caches; the queue starts empty.
        flags: dict[str, str | int | bool] = {"policy": policy, **PLAIN}
        if policy == "oracle":
            flags |= {"benchmark": True, "oracle_lengths": str(self._oracle_lengths)}
        self._stack.restart("gateway", flags)
        return self._replay(load)

    def _replay(self, load: Workload) -> list[Record]:
        records = asyncio.run(replay.replay(self._stack.gateway_address, load, self._advance))
        self._stack.check()
        return records

    def _warm_up(self) -> list[Request]:
        prompts = self._requests[: self._settings.warm_up_requests]
        return [
            Request(
                request_id=f"warm-up-{index}",
                prompt=request.prompt,
                max_tokens=self._settings.warm_up_tokens,
                temperature=self._settings.temperature,
                seed=index,
            )
            for index, request in enumerate(prompts)
        ]

    def _write_oracle_lengths(self, records: Sequence[Record]) -> None:
        lengths = {r.request.request_id: r.output_tokens for r in records if r.ok}
        self._oracle_lengths.write_text(json.dumps(lengths, indent=1), encoding="utf-8")


@contextmanager
def _progress(
    console: Console, settings: DemoSettings, requests: int
) -> Iterator[tuple[Callable[[str], None], Callable[[Record], None]]]:
    """A bar over all phases, or a line for each phase where there is no terminal."""
    columns = (
        TextColumn("{task.description:<16}"),
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=settings.warm_up_requests + 5 * requests)

        def begin(phase: str) -> None:
            bar.update(task, description=phase)
            if not console.is_terminal:
                console.print(f"{phase} …")

        yield begin, lambda _: bar.advance(task)
