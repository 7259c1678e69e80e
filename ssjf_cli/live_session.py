"""A live evaluation from its plan to records: recording, capacities, runs, in their order.

Owns what is done next, when to stop for lack of time, and what a finished run's header
says. Where runs happen is `live_services`', what is remembered the folder's, the arithmetic
`ssjf_bench`'s. Called by `bench_live`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, Protocol

from ssjf_bench import (
    live_capacity,
    live_limits,
    live_plan,
    live_run,
    live_verdict,
    live_work,
    provenance,
    sim_run,
    workload,
)
from ssjf_bench.live_capacity import CapacityError
from ssjf_bench.live_folder import LiveFolder, OtherPlan
from ssjf_bench.live_limits import LimitsError
from ssjf_bench.live_plan import Choice, Engine, Plan, PlannedRun
from ssjf_bench.live_records import LiveRow, RecordsError, Run, RunHeader
from ssjf_bench.live_run import Seen, Target
from ssjf_bench.live_work import Work
from ssjf_bench.replay import Record
from ssjf_bench.sim_run import Offered
from ssjf_bench.workload import Request, Workload
from ssjf_cli.live_services import Services
from ssjf_cli.process import StackError

FCFS: Final = "fcfs"
RECORDING: Final = "recording lengths"


class Watcher(Protocol):
    """Is told how far the evaluation is."""

    def begin(self, name: str, extra_requests: int = 0) -> None:
        """A phase or run begins, with requests that are not among those of the runs."""

    def note(self, text: str) -> None:
        """Something that the reader of the figures should know."""

    def advance(self, record: Record) -> None:
        """A request has ended."""

    def ended(self, run: Run) -> None:
        """A run has ended and is kept."""


class Broken(Exception):
    """A service ended during a run; the message says which."""


FAILURES: Final = (Broken, StackError, LimitsError, CapacityError, OtherPlan, RecordsError)
"""What ends an evaluation before its time."""


class Session:
    """Runs what of a plan is not in its folder yet."""

    def __init__(
        self,
        plan: Plan,
        work: Work,
        folder: LiveFolder,
        services: Services,
        watcher: Watcher,
        seconds_left: Callable[[], float],
    ) -> None:
        self._plan = plan
        self._work = work
        self._folder = folder
        self._services = services
        self._watcher = watcher
        self._seconds_left = seconds_left
        self._kv: dict[str, Any] = {}

    def run(self, missing: Sequence[PlannedRun]) -> bool:
        """Makes these of the plan's runs; False where time ran out before.

        Raises StackError, LimitsError, CapacityError; Broken where a service ends in a run,
        which is kept as invalid.
        """
        if missing:
            self._look(missing[0])
            if self._plan.real_text:
                recorded = self._folder.lengths() or self._record()
                if self._plan.hold_lengths:
                    self._work = live_work.held(self._work, recorded)
        for planned in missing:
            offered = self._offered(planned)
            if too_long(self._plan, self._folder, planned, self._seconds_left()):
                return False
            self._one(planned, offered)
        return True

    # What comes before the runs ----------------------------------------------

    def _look(self, planned: PlannedRun) -> None:
        """Learns what the services hold. Raises LimitsError where that is too little."""
        target = self._gateway(planned.engine, Choice(FCFS))
        served = live_limits.served(target.gateway)
        forced = self._plan.hold_lengths or not self._plan.real_text
        if forced and not served.benchmark:
            raise LimitsError(
                "the gateway runs without --benchmark, so no length can be forced: start it with "
                "it, or ask for --real-text --let-lengths-vary"
            )
        if served.max_sequences < self._plan.most_places:
            raise LimitsError(
                f"the engine runs {served.max_sequences} requests at once, not the "
                f"{self._plan.most_places} that are asked for"
            )
        self._kv = {"kv_tokens": served.kv_tokens, "context_tokens": served.context_tokens}
        if address := self._services.engine_address:
            prompts = live_limits.prompt_tokens(address, self._work.requests)
            limit = self._work.max_tokens
            live_limits.check_context(prompts, limit, served.context_tokens)
            wanted = live_limits.kv_tokens_wanted(prompts, limit, self._plan.most_places)
            self._kv["kv_tokens_wanted"] = wanted
            if wanted > served.kv_tokens:
                self._watcher.note(
                    f"a full batch may reserve {wanted:,} KV tokens and the engine has "
                    f"{served.kv_tokens:,}: memory may hold requests back, not places alone"
                )
        else:
            self._watcher.note(
                "a gateway that runs keeps its settings: prefix reuse, remembered predictions and "
                "the fallback are as they were started"
            )

    def _record(self) -> Mapping[str, int]:
        """Real text: every request once, as fast as it goes, for the oracle's lengths."""
        engine = Engine("continuous", self._plan.most_places)
        self._watcher.begin(RECORDING, self._work.size(self._plan, engine))
        seen = self._replay(engine, self._work.requests)
        lengths = {record.request.request_id: record.output_tokens for record in seen.measured}
        self._folder.keep_lengths(lengths)
        return lengths

    def _capacity(self, engine: Engine) -> float:
        """Given, measured before, or measured now."""
        known = self._folder.known_capacity(engine)
        if known is None:
            lengths, work = self._lengths(), self._work
            requests = live_capacity.burst(work.requests, engine, self._plan.seed, lengths)
            extra = len(requests) + self._plan.warm_up_requests(engine)
            self._watcher.begin(f"capacity {engine.name}", extra)
            mean_tokens = sum(lengths.values()) / len(lengths)
            records = self._replay(engine, requests).measured
            known = live_capacity.requests_per_s(records, engine, mean_tokens)
            self._folder.keep_capacity(
                engine, known, requests=len(requests), mean_output_tokens=mean_tokens
            )
        return known

    def _replay(self, engine: Engine, requests: Sequence[Request]) -> Seen:
        """All at once under first come, first served, nothing of it kept. Raises CapacityError."""
        target = self._gateway(engine, Choice(FCFS))
        seen = self._seen(target, engine, workload.burst(requests))
        failed = [record for record in (*seen.warm_up, *seen.measured) if not record.ok]
        if seen.broken or failed:
            why = seen.broken or f"{failed[0].outcome} {failed[0].error}"
            raise CapacityError(f"{engine.name}: the burst did not finish: {why}")
        return seen

    # The runs ----------------------------------------------------------------

    def _one(self, planned: PlannedRun, offered: Offered) -> None:
        self._watcher.begin(planned.name)
        target = self._gateway(planned.engine, planned.choice)
        flags = self._services.flags
        seen = self._seen(target, planned.engine, offered.workload)
        rows = live_run.rows(planned, seen)
        run = Run(self._header(planned, offered, seen, rows, flags), rows)
        self._folder.keep(run)
        self._watcher.ended(run)
        if seen.broken:
            raise Broken(f"{planned.name}: {seen.broken}")

    def _gateway(self, engine: Engine, choice: Choice) -> Target:
        path = self._folder.write_oracle_lengths(self._lengths())
        return self._services.gateway(engine, choice, path)

    def _seen(self, target: Target, engine: Engine, load: Workload) -> Seen:
        warm_up = self._work.warm_up[: self._plan.warm_up_requests(engine)]
        return live_run.run(
            target,
            workload.burst(warm_up),
            load,
            delta_interval_ms=self._plan.delta_interval_ms,
            on_end=self._watcher.advance,
        )

    def _offered(self, planned: PlannedRun) -> Offered:
        capacity = self._capacity(planned.engine)
        work = self._work
        return sim_run.offer_at(work.traffic, work.requests, planned.load, capacity)

    def _lengths(self) -> Mapping[str, int]:
        """True lengths by request id, as far as they are known."""
        forced = {
            each.request_id: each.output_tokens
            for each in self._work.requests
            if each.output_tokens is not None
        }
        return forced or self._folder.lengths() or {}

    def _header(
        self,
        planned: PlannedRun,
        offered: Offered,
        seen: Seen,
        rows: Sequence[LiveRow],
        flags: Mapping[str, Mapping[str, Any]],
    ) -> RunHeader:
        plan = self._plan
        measured = [row for row in rows if row.measured]
        facts = live_verdict.facts(
            measured,
            tick_lag_s=seen.tick_lag_s,
            generator_cores=seen.generator_cores,
            recorded=self._lengths() if plan.real_text else None,
        )
        capacity = offered.capacity_requests_per_s
        return RunHeader(
            run=planned.name,
            policy=planned.choice.policy,
            options=dict(planned.choice.options),
            mode=planned.engine.mode,
            max_batch=planned.engine.max_batch,
            max_wait_ms=plan.max_wait_ms,
            load=planned.load,
            offered_requests_s=planned.load * capacity,
            capacity_requests_s=capacity,
            repeat=planned.repeat,
            seed=plan.seed,
            arrivals=plan.arrivals,
            prompts=plan.prompts,
            hardware=provenance.hardware(),
            flags=flags,
            cpu_s=dict(seen.cpu_s),
            window_s=live_verdict.window_s(rows),
            facts={
                **facts,
                **seen.gateway,
                **self._kv,
                "max_tokens": self._work.max_tokens,
                "warm_up_requests": len(seen.warm_up),
            },
            invalid=live_verdict.reasons(rows, facts, seen.broken),
        )


def too_long(plan: Plan, folder: LiveFolder, planned: PlannedRun, seconds_left: float) -> bool:
    """Whether a run would end too late; False while its capacity is not known."""
    capacity = folder.known_capacity(planned.engine)
    if capacity is None or plan.jobs is None:
        return False
    return live_plan.predicted_s(plan.jobs, planned, capacity) > seconds_left


def seconds_left(limit_s: float | None) -> Callable[[], float]:
    """Counts down from now; without a limit for ever."""
    if limit_s is None:
        return lambda: float("inf")
    ends_s = time.monotonic() + limit_s
    return lambda: ends_s - time.monotonic()
