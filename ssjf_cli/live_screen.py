"""What `ssjf bench live` shows while it runs, and of a plan: the bar, notes, the list of runs.

Owns what stands on the terminal. Figures of finished runs are `live_table`'s. Called by
`bench_live` and, as its watcher, by `live_session`.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich import box
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from ssjf_bench import live_plan
from ssjf_bench.live_folder import LiveFolder
from ssjf_bench.live_plan import Plan
from ssjf_bench.live_records import Run
from ssjf_bench.replay import Record
from ssjf_cli.bench_failure import console


class Bar:
    """A bar over the requests of all runs, or a line for each where there is no terminal."""

    def __init__(self, progress: Progress, requests: int) -> None:
        self._progress = progress
        self._total = requests
        self._task = progress.add_task("", total=requests)
        self.invalid = 0
        """Runs that do not count."""

    def begin(self, name: str, extra_requests: int = 0) -> None:
        """A phase or run begins, with requests that are not among those of the runs."""
        self._total += extra_requests
        self._progress.update(self._task, description=name, total=self._total)
        if not console.is_terminal:
            console.print(f"{name} …", highlight=False)

    def note(self, text: str) -> None:
        """Something that the reader of the figures should know."""
        console.print(text, style="yellow", markup=False, highlight=False, soft_wrap=True)

    def advance(self, _: Record) -> None:
        """A request has ended."""
        self._progress.advance(self._task)

    def ended(self, run: Run) -> None:
        """A run has ended."""
        for reason in run.header.invalid:
            self.invalid += 1
            line = f"{run.header.run} does not count: {reason}"
            console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)


@contextmanager
def bar(requests: int) -> Iterator[Bar]:
    """A bar for the block."""
    columns = (
        TextColumn("{task.description:<32}"),
        *(BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()),
    )
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        yield Bar(progress, requests)


def plan_table(plan: Plan, folder: LiveFolder) -> Table:
    """What would be run, and about how long it takes where the capacity is known."""
    title = f"{plan.jobs} requests a run, {plan.arrivals}, {plan.prompts}"
    made = Table(title=title, box=box.SIMPLE_HEAD, padding=(0, 1))
    for name in ("run", "requests/s", "minutes", "done"):
        made.add_column(name, justify="left" if name == "run" else "right", no_wrap=True)
    for run in plan.runs:
        known = folder.known_capacity(run.engine)
        rate = minutes = "not measured"
        if known and plan.jobs:
            takes_s = live_plan.predicted_s(plan.jobs, run, known)
            rate, minutes = f"{run.load * known:.3g}", f"{takes_s / 60:.1f}"
        made.add_row(run.name, rate, minutes, "yes" if folder.counts(run.name) else "")
    return made
