"""`ssjf bench live`: real services under one workload, policy after policy.

Owns the command line, exit codes and what is written. What the options mean is
`live_options`', what is run `live_session`'s, what is shown `live_screen`'s; imported when
the command runs. Registered by `bench`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from rich.console import Console

from ssjf_cli.bench_failure import check_output, console, extras, fail
from ssjf_cli.bench_json import write_json
from ssjf_cli.bench_sim import ModeName

if TYPE_CHECKING:
    from ssjf_bench.live_folder import LiveFolder
    from ssjf_bench.live_plan import Plan, PlannedRun
    from ssjf_bench.sim_run import Traffic

STOPPED: Final = 75
"""Exit code where time ran out between two runs (EX_TEMPFAIL: the same command goes on)."""
INVALID: Final = 65
"""Exit code where a run does not count (EX_DATAERR: the same command makes it again)."""
FlagOption = Annotated[list[str] | None, typer.Option(help="NAME=VALUE of its settings.")]


def live(
    out: Annotated[Path, typer.Option(help="Folder of raw records; a second call goes on.")],
    json_file: Annotated[Path | None, typer.Option("--json", help="Where the summary goes.")] = (
        None
    ),
    data: Annotated[
        Path | None, typer.Option(help="Data file of prompts with lengths; else shipped prompts.")
    ] = None,
    llm: Annotated[str, typer.Option(help="Rows of this LLM; predictions are for it.")] = "",
    split: Annotated[str, typer.Option(help="Rows of this part of the data, e.g. test.")] = "",
    longest: Annotated[
        int | None, typer.Option(min=1, help="Leaves out rows of --data with a longer answer.")
    ] = None,
    unseen_by: Annotated[
        Path | None,
        typer.Option(help="Folder of trained weights: leaves out what they were trained on."),
    ] = None,
    arrivals: Annotated[
        str, typer.Option(help="poisson, gamma:CV, or a CSV (.gz) with arrival_s and lengths.")
    ] = "poisson",
    skip: Annotated[int, typer.Option(min=0, help="Requests of a trace to leave out first.")] = 0,
    jobs: Annotated[
        int | None,
        typer.Option(min=2, help="Requests of a run; else the whole trace, or each prompt."),
    ] = None,
    load: Annotated[
        list[float] | None, typer.Option(help="Share of measured capacity; repeatable; else 0.9.")
    ] = None,
    mode: Annotated[
        list[ModeName] | None, typer.Option(help="Batching; repeatable; else continuous.")
    ] = None,
    max_batch: Annotated[
        list[int] | None, typer.Option(min=1, help="Places of the engine; repeatable; else 16.")
    ] = None,
    max_wait_ms: Annotated[
        float, typer.Option(min=0.0, help="Dynamic: longest wait for company.")
    ] = 50.0,
    policy: Annotated[
        list[str] | None,
        typer.Option(help="NAME or NAME:OPTION=VALUE; repeatable; else fcfs ssjf default oracle."),
    ] = None,
    repeats: Annotated[int, typer.Option(min=1, help="Of everything; policies alternate.")] = 1,
    seed: Annotated[int, typer.Option(help="Of prompts, arrivals and sampling.")] = 1,
    real_text: Annotated[
        bool,
        typer.Option(
            "--real-text/--force-lengths",
            help="Answers as the engine makes them, or as long as the data's.",
        ),
    ] = False,
    hold_lengths: Annotated[
        bool,
        typer.Option(
            "--hold-lengths/--let-lengths-vary",
            help="Real text: every run's answers as long as the recording pass had them, or not.",
        ),
    ] = True,
    max_tokens: Annotated[
        int | None,
        typer.Option(min=1, help="Every request's limit; else the longest answer."),
    ] = None,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0, help="Of sampling.")] = 0.7,
    warm_up: Annotated[
        int | None, typer.Option(min=0, help="Requests before each window; else a full batch.")
    ] = None,
    capacity: Annotated[
        list[str] | None,
        typer.Option(help="Requests/s, or MODE-BATCH=REQ_S; measured where not given."),
    ] = None,
    engine_model: Annotated[
        str, typer.Option(help="Model, e.g. shape:llama-3.1-8b; else the embedded one.")
    ] = "",
    device: Annotated[str, typer.Option(help="The engine's: auto, cpu or cuda.")] = "auto",
    predictor_model: Annotated[
        Path | None, typer.Option(help="Exported model of the predictor; else the shipped one.")
    ] = None,
    predictor_provider: Annotated[
        str, typer.Option(help="The predictor's: auto, cpu or cuda.")
    ] = "auto",
    engine_flag: FlagOption = None,
    predictor_flag: FlagOption = None,
    gateway_flag: FlagOption = None,
    gateway: Annotated[
        str | None,
        typer.Option(help="HOST:PORT of one that runs: the one policy that it serves is run."),
    ] = None,
    delta_interval_ms: Annotated[
        int, typer.Option(min=0, help="Tokens that come within it reach the client together.")
    ] = 50,
    plots: Annotated[Path | None, typer.Option(help="Folder for the plots.")] = None,
    only: Annotated[
        list[str] | None,
        typer.Option(help="This run of the plan, as --plan names it; repeatable; else all."),
    ] = None,
    plan_only: Annotated[bool, typer.Option("--plan", help="Shows what would be run.")] = False,
    seconds_limit: Annotated[
        float | None,
        typer.Option("--seconds-left", help="Starts no run that would end later; exit code 75."),
    ] = None,
) -> None:
    """Real services under one workload, policy after policy, run after run.

    Exit code 65 where a run does not count, 75 where time ran out before the last one.
    """
    with extras():
        from ssjf_bench import live_limits
        from ssjf_cli import live_options, live_session
    seconds_left = live_session.seconds_left(seconds_limit)
    if json_file is not None:
        check_output(json_file)
    try:
        engine = {"model": engine_model, "device": device}
        predictor = {"model_dir": str(predictor_model or ""), "provider": predictor_provider}
        options = live_options.LiveOptions(
            data=data,
            llm=llm,
            split=split,
            longest=longest,
            unseen_by=unseen_by,
            arrivals=arrivals,
            skip=skip,
            jobs=jobs,
            loads=load or (),
            modes=[each.value for each in mode or ()],
            batches=max_batch or (),
            max_wait_ms=max_wait_ms,
            policies=policy or (),
            repeats=repeats,
            seed=seed,
            real_text=real_text,
            hold_lengths=hold_lengths,
            max_tokens=max_tokens,
            temperature=temperature,
            warm_up=warm_up,
            capacities=capacity or (),
            engine={**_given(engine), **live_options.flags_of(engine_flag or ())},
            predictor={**_given(predictor), **live_options.flags_of(predictor_flag or ())},
            gateway=live_options.flags_of(gateway_flag or ()),
            delta_interval_ms=delta_interval_ms,
        )
        served = None if gateway is None else live_limits.served(gateway)
        plan, traffic = live_options.plan_of(options, served)
        wanted = live_options.wanted(plan, only or ())
    except live_options.FAILURES as error:
        fail(str(error))
    if plan_only:
        _show_plan(plan, out)
        return
    code = _run(plan, traffic, wanted, out, gateway, seconds_left)
    _report(plan, out, json_file, plots)
    raise typer.Exit(code)


def _given(flags: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in flags.items() if value}


def _run(
    plan: Plan,
    traffic: Traffic,
    wanted: Sequence[PlannedRun],
    out: Path,
    gateway: str | None,
    seconds_left: Callable[[], float],
) -> int:
    """What is missing of the runs that are wanted; the exit code."""
    from ssjf_bench import live_work
    from ssjf_bench.live_folder import LiveFolder
    from ssjf_cli import live_screen, live_services, live_session

    try:
        folder = LiveFolder(out, plan)
        folder.claim()
        work = live_work.work_of(plan, traffic)
        missing = folder.missing(wanted)
        if not missing:
            return 0
        if live_session.too_long(plan, folder, missing[0], seconds_left()):
            return _stopped(plan, folder)
        requests = sum(work.size(plan, run.engine) for run in missing)
        with live_screen.bar(requests) as bar:
            bar.begin("starting services" if gateway is None else f"gateway {gateway}")
            with live_services.started(plan, gateway, work, out / "logs") as services:
                session = live_session.Session(plan, work, folder, services, bar, seconds_left)
                whole = session.run(missing)
    except live_session.FAILURES as error:
        fail(str(error))
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on", highlight=False)
        raise typer.Exit(130) from None
    if not whole:
        return _stopped(plan, folder)
    return INVALID if bar.invalid else 0


def _stopped(plan: Plan, folder: LiveFolder) -> int:
    done = sum(folder.counts(run.name) for run in plan.runs)
    line = f"time is up with {done} of {len(plan.runs)} runs done; the same command goes on"
    console.print(line, highlight=False)
    return STOPPED


def _report(plan: Plan, out: Path, json_file: Path | None, plots: Path | None) -> None:
    """Summaries of every run that is there, printed, written and drawn."""
    from ssjf_bench import live_plots, live_report
    from ssjf_bench.live_folder import LiveFolder
    from ssjf_cli import live_table

    folder = LiveFolder(out, plan)
    runs = folder.in_order()
    headers = [run.header for run in runs]
    rows = [row for run in runs for row in run.rows]
    if not runs:
        return
    summaries = live_report.summaries(headers, rows)
    spread = live_report.spread(summaries)
    drawn = []
    if plots is not None:
        plots.mkdir(parents=True, exist_ok=True)
        drawn = live_plots.draw(rows, headers, plots)
    if json_file is not None:
        found = {
            "plan": _published(plan),
            "capacities": folder.capacities(),
            "records": live_report.checksums(folder.file(run.header.run) for run in runs),
            "plots": [path.name for path in drawn],
            "spread": spread,
            "results": summaries,
        }
        write_json(json_file, found)
    live_table.show(summaries, spread, Console())


def _published(plan: Plan) -> dict[str, Any]:
    """The plan without the folders of this machine."""
    from ssjf_cli.live_services import without_folders

    shown = plan.to_json()
    shown["flags"] = {name: without_folders(flags) for name, flags in plan.flags.items()}
    return shown


def _show_plan(plan: Plan, out: Path) -> None:
    from ssjf_bench.live_folder import LiveFolder
    from ssjf_cli import live_screen, live_session

    try:
        Console().print(live_screen.plan_table(plan, LiveFolder(out, plan)))
    except live_session.FAILURES as error:
        fail(str(error))
