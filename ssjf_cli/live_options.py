"""From the options of `ssjf bench live` to a plan, its traffic and the services' settings.

Owns what the options mean together, their defaults, and what makes no sense. Runs nothing.
Called by `bench_live`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, TypeVar

from ssjf_bench import arrivals as shapes
from ssjf_bench import provenance, trace, workload
from ssjf_bench.lengths import Answered
from ssjf_bench.live_limits import LimitsError, Served
from ssjf_bench.live_plan import Flags, Plan, PlannedRun
from ssjf_bench.sim_run import Traffic
from ssjf_bench.trace import Trace, TraceError
from ssjf_bench.workload import WorkloadError
from ssjf_cli import predictor_offline
from ssjf_cli.live_services import own_flags

REAL_TEXT_TOKENS: Final = 1024
POLICIES: Final = ("fcfs", "ssjf", "default", "oracle")
SHIPPED: Final = "shipped prompts"
T = TypeVar("T")
FAILURES: Final = (ValueError, TraceError, WorkloadError, LimitsError, *predictor_offline.FAILURES)
"""What options that cannot be used raise."""


@dataclass(frozen=True, slots=True)
class LiveOptions:
    """What the command line says; None and empty where it says nothing."""

    data: Path | None = None
    """Prompts, with lengths."""
    llm: str = ""
    """Rows of this LLM."""
    split: str = ""
    """Rows of this part of the data."""
    longest: int | None = None
    """Rows with a longer answer are left out."""
    unseen_by: Path | None = None
    """Trained weights; rows whose prompts they were trained on are left out."""
    arrivals: str = "poisson"
    """Their shape."""
    skip: int = 0
    """Requests of the trace left out first."""
    jobs: int | None = None
    """Requests of a run."""
    loads: Sequence[float] = ()
    """Shares of capacity."""
    modes: Sequence[str] = ()
    """Batching."""
    batches: Sequence[int] = ()
    """Places of the engine."""
    max_wait_ms: float = 50.0
    """Dynamic batching: longest wait for company."""
    policies: Sequence[str] = ()
    """Labels."""
    repeats: int = 1
    """Of everything."""
    seed: int = 1
    """Of prompts, arrivals and sampling."""
    real_text: bool = False
    """Whether the engine decides on lengths."""
    hold_lengths: bool = True
    """Whether it decides once for all runs."""
    max_tokens: int | None = None
    """Every request's limit."""
    temperature: float = 0.7
    """Of sampling."""
    warm_up: int | None = None
    """Requests before each window."""
    capacities: Sequence[str] = ()
    """REQ_S for all, or MODE-BATCH=REQ_S."""
    engine: Flags | None = None
    """Settings of the engine."""
    predictor: Flags | None = None
    """Settings of the predictor."""
    gateway: Flags | None = None
    """Settings of the gateway."""
    delta_interval_ms: int = 50
    """Tokens that come within it reach the client together."""


def plan_of(options: LiveOptions, served: Served | None = None) -> tuple[Plan, Traffic]:
    """The plan and its traffic; `served` is what a gateway that runs already does.

    Raises ValueError, TraceError, WorkloadError, DataError.
    """
    if options.real_text and options.max_tokens is None:
        options = replace(options, max_tokens=REAL_TEXT_TOKENS)
    rows, llm = _rows(options)
    arrivals = shapes.parse(options.arrivals)
    if options.skip:
        if not isinstance(arrivals, Trace):
            raise ValueError("--skip: these arrivals are no trace")
        arrivals = trace.without_first(arrivals, options.skip)
    # Without a trace to take whole, every prompt comes once.
    jobs = len(rows) if options.jobs is None and not isinstance(arrivals, Trace) else options.jobs
    traffic = Traffic(arrivals, rows, jobs, options.seed, max_tokens=options.max_tokens)
    hardware = provenance.hardware()
    plan = Plan(
        arrivals=_name(options.arrivals),
        prompts=SHIPPED if options.data is None else options.data.name,
        checksums=_checksums(options),
        modes=_asked("mode", options.modes, served.mode if served else None) or ("continuous",),
        batches=_asked("batch", options.batches, served.max_batch if served else None) or (16,),
        loads=options.loads or (0.9,),
        policies=_asked("policy", options.policies, served.policy if served else None) or POLICIES,
        repeats=options.repeats,
        llm=llm,
        split=options.split,
        longest=options.longest,
        unseen_by=options.unseen_by.name if options.unseen_by else "",
        skip=options.skip,
        jobs=traffic.count,
        seed=options.seed,
        real_text=options.real_text,
        hold_lengths=options.real_text and options.hold_lengths,
        max_tokens=options.max_tokens,
        temperature=options.temperature,
        max_wait_ms=options.max_wait_ms if served is None else served.max_wait_ms,
        warm_up=options.warm_up,
        delta_interval_ms=options.delta_interval_ms,
        machine=hardware["gpus"] or [hardware["cpu"]],
    )
    plan = replace(plan, capacities=_capacities(options.capacities, plan))
    return (plan, traffic) if served else (replace(plan, flags=_flags(options, plan)), traffic)


def wanted(plan: Plan, only: Sequence[str]) -> list[PlannedRun]:
    """The plan's runs that `only` names, in the plan's order; all where it names none.

    So can a plan be shared among machines: their files, in one folder, are its records.
    Raises ValueError for a name that no run has.
    """
    names = [run.name for run in plan.runs]
    if unknown := [name for name in only if name not in names]:
        raise ValueError(f"--only {unknown[0]}: the plan has {', '.join(names)}")
    return [run for run in plan.runs if not only or run.name in only]


def _rows(options: LiveOptions) -> tuple[Sequence[Answered], str]:
    """The rows to draw from, and the LLM whose lengths they are."""
    if options.data is None:
        if not options.real_text:
            raise ValueError("lengths can only be forced of a file that has them: --data FILE")
        prompts = workload.shipped_prompts()
        return [Answered(p.prompt_id, p.text, (), "", 1, p.category) for p in prompts], ""
    rows = predictor_offline.read_answered(
        options.data,
        options.longest,
        llm=options.llm,
        split=options.split,
        unseen_by=options.unseen_by,
    )
    llms = sorted({row.llm for row in rows})
    if not rows:
        raise ValueError(f"{options.data}: no row of that LLM, part and length, or none unseen")
    if options.real_text:
        once = {(row.prompt, row.turns): replace(row, llm="") for row in rows}
        return list(once.values()), options.llm
    if len(llms) > 1:
        some = ", ".join(llms[:3])
        raise ValueError(
            f"{options.data}: answers of {len(llms)} LLMs ({some} …), and an engine is one: --llm"
        )
    return rows, llms[0]


def _flags(options: LiveOptions, plan: Plan) -> dict[str, Flags]:
    """The services' settings; an engine goes by the name of the LLM that it stands for."""
    named: Flags = {"model_name": plan.llm} if plan.llm else {}
    given = {
        "engine": {**named, **(options.engine or {})},
        "predictor": options.predictor or {},
        "gateway": options.gateway or {},
    }
    return dict(own_flags(plan.most_places, given))


def _asked(what: str, asked: Sequence[T], there: T | None) -> Sequence[T]:
    """What was asked for, or what is there. Raises ValueError where they differ."""
    if there is None:
        return asked
    if asked and list(asked) != [there]:
        raise ValueError(
            f"the gateway that runs serves {what} {there} and cannot be restarted: ask for that "
            "alone, or leave --gateway out"
        )
    return [there]


def _capacities(given: Sequence[str], plan: Plan) -> dict[str, float]:
    names = [engine.name for engine in plan.engines]
    found: dict[str, float] = {}
    for text in given:
        name, _, number = text.rpartition("=")
        try:
            requests_s = float(number)
        except ValueError:
            requests_s = 0.0
        if not 0 < requests_s < float("inf") or (name and name not in names):
            raise ValueError(f"--capacity {text!r}: REQ_S or one of {', '.join(names)}, =REQ_S")
        found |= dict.fromkeys([name] if name else names, requests_s)
    return found


def _checksums(options: LiveOptions) -> dict[str, str]:
    seen = predictor_offline.seen_file(options.unseen_by) if options.unseen_by else None
    files = [options.data, Path(options.arrivals), seen]
    return {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest()
        for file in files
        if file is not None and file.is_file()
    }


def _name(arrivals: str) -> str:
    return Path(arrivals).name if Path(arrivals).is_file() else arrivals


def flags_of(given: Sequence[str]) -> dict[str, str | bool]:
    """`NAME=VALUE`, each a setting of a service; true and false are switches. Raises ValueError."""
    found: dict[str, str | bool] = {}
    for text in given:
        name, equals, value = text.partition("=")
        if not (name and equals):
            raise ValueError(f"{text!r}: NAME=VALUE wanted")
        switch = {"true": True, "false": False}.get(value.lower())
        found[name.replace("-", "_")] = value if switch is None else switch
    return found
