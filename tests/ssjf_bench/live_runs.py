"""Live runs without a live system: the simulator's outcomes written down as rows."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from gateway_svc.scheduling.batching import Batching, Mode
from gateway_svc.scheduling.cost import StepModel
from gateway_svc.scheduling.policy import PolicyOptions
from ssjf_bench import arrivals, lengths, sim_predictions
from ssjf_bench.arrivals import Renewal
from ssjf_bench.lengths import Answered
from ssjf_bench.live_records import LiveRow, Run, RunHeader
from ssjf_bench.simulator import Setup, simulate
from ssjf_bench.step_time import StepTime
from ssjf_bench.virtual_engine import Handover
from ssjf_bench.workload import Workload

STEP = StepTime(6.5, 0.1, 0.03, 4.0)
HANDOVER = Handover(idle_ms=3.0, busy_steps=2.0)


def header(run: str = "continuous-8-0.9-fcfs-1", **changes: Any) -> RunHeader:
    mode, batch, load, rest = run.split("-", 3)
    policy, _, repeat = rest.rpartition("-")
    values: dict[str, Any] = {
        "run": run,
        "policy": policy,
        "options": {},
        "mode": mode,
        "max_batch": int(batch),
        "max_wait_ms": 50.0,
        "load": float(load),
        "offered_requests_s": 1.8,
        "capacity_requests_s": 2.0,
        "repeat": int(repeat),
        "seed": 1,
        "arrivals": "gamma:3",
        "prompts": "prompts.jsonl",
        "hardware": {"cores": 2},
        "flags": {"gateway": {"policy": policy}},
        "cpu_s": {"engine": 4.0, "predictor": 0.5, "gateway": 1.0, "generator": 0.2},
        "window_s": 10.0,
        "facts": {},
        "invalid": (),
    }
    return RunHeader(**{**values, **changes})


def row(of: RunHeader, request_id: str = "0", **changes: Any) -> LiveRow:
    """A request that arrives at 0 s, ends at 2 s, and has five tokens from 1 s on."""
    values: dict[str, Any] = {
        "run": of.run,
        "policy": of.policy,
        "mode": of.mode,
        "max_batch": of.max_batch,
        "load": of.load,
        "repeat": of.repeat,
        "request_id": request_id,
        "prompt_id": f"p{request_id}",
        "category": "",
        "llm": "",
        "seed": 1,
        "measured": True,
        "arrival_s": 0.0,
        "sent_s": 0.0,
        "queued_s": 0.005,
        "started_s": 0.5,
        "first_token_s": 1.0,
        "end_s": 2.0,
        "prompt_tokens": 20,
        "predicted_tokens": 5.0,
        "predicted_by_model": True,
        "forced_tokens": 5,
        "output_tokens": 5,
        "finish_reason": "FINISH_REASON_LENGTH",
        "outcome": "OK",
        "error": "",
    }
    return LiveRow(**{**values, **changes})


def workload(
    jobs: int, load: float, mode: str, max_batch: int, *, seed: int = 1, step_time: StepTime = STEP
) -> tuple[Workload, sim_predictions.Predictions]:
    """Log-normal lengths and prompts, bursty arrivals, predictions of a tau-b near 0.68."""
    draw = random.Random(seed)
    rows = [
        Answered(f"p{index}", "", (), "", min(600, 1 + int(draw.lognormvariate(4.2, 0.9))))
        for index in range(jobs)
    ]
    prompts = [1 + int(draw.lognormvariate(4.5, 0.8)) for _ in rows]
    requests = lengths.requests(rows, seed, prompt_tokens=prompts)
    places = Batching(Mode(mode), max_batch).places
    capacity = step_time.capacity_requests_per_s(
        places, sum(row.output_tokens for row in rows) / jobs, sum(prompts) / jobs
    )
    times_s = arrivals.times_s(Renewal(3.0), jobs, load * capacity, seed)
    actual = [request.output_tokens or 0 for request in requests]
    return Workload(requests, times_s), sim_predictions.noisy(actual, 0.45, seed)


def simulated(
    policy: str,
    *,
    mode: str = "continuous",
    max_batch: int = 8,
    load: float = 0.9,
    repeat: int = 1,
    jobs: int = 400,
    options: Mapping[str, Any] | None = None,
    step_time: StepTime = STEP,
    handover: Handover = HANDOVER,
    longer: float = 1.0,
) -> Run:
    """A run as the simulator with these times has it; the first tenth is warm-up.

    `longer`: how many times as long the answers came out as planned.
    """
    traffic, predictions = workload(jobs, load, mode, max_batch, seed=repeat, step_time=step_time)
    if longer != 1.0:
        traffic = replace(
            traffic,
            requests=tuple(
                replace(each, output_tokens=round(longer * (each.output_tokens or 0) + 0.5))
                for each in traffic.requests
            ),
        )
    batching = Batching(Mode(mode), max_batch, 0.05)
    outcome = simulate(
        traffic,
        predictions,
        Setup(
            policy,
            PolicyOptions(**(options or {})),
            batching,
            step_time,
            handover=handover,
            step_model=StepModel(),
        ),
    )
    name = f"{mode}-{max_batch}-{load}-{policy}-{repeat}"
    of = header(name, policy=policy, options=dict(options or {}), seed=repeat)
    times = zip(outcome.start_s, outcome.first_token_s, outcome.end_s, strict=True)
    rows = [
        row(
            of,
            request.request_id,
            measured=index >= jobs // 10,
            arrival_s=arrival_s,
            sent_s=arrival_s,
            queued_s=arrival_s,
            started_s=float(start_s),
            first_token_s=float(first_s),
            end_s=float(end_s),
            prompt_tokens=request.prompt_tokens,
            predicted_tokens=predicted,
            forced_tokens=request.output_tokens,
            output_tokens=request.output_tokens,
        )
        for index, (request, arrival_s, predicted, (start_s, first_s, end_s)) in enumerate(
            zip(traffic.requests, traffic.arrivals_s, predictions.tokens, times, strict=True)
        )
    ]
    return Run(of, rows)


def split(runs: Sequence[Run]) -> tuple[list[RunHeader], list[LiveRow]]:
    """Headers and rows of all runs, as the reports take them."""
    return [run.header for run in runs], [each for run in runs for each in run.rows]


def as_lines(run: Run) -> list[dict[str, Any]]:
    """The rows as plain data."""
    return [asdict(each) for each in run.rows]
