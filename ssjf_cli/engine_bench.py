"""`ssjf bench engine`: tokens a second of the engine alone, behind gRPC, and of transformers.

Owns the order of the measurements and what a result holds. The cases are
`ssjf_bench.engine_cases`, the client of a served engine is `ssjf_bench.engine_load`.
Called by `bench`; it imports the engine, since a part of it is measured without gRPC.
"""

from __future__ import annotations

import gc
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from typing import Any, Final

import torch

from engine_svc.assembly import Assembled, assemble
from engine_svc.config import EngineSettings
from engine_svc.messages import Attach, Detach, Report, Start, Stop
from engine_svc.params import SamplingParams
from engine_svc.sequence import Sequence
from ssjf.wire.run import StartupError
from ssjf_bench import engine_load
from ssjf_bench.engine_cases import CASES, MOST_SEQUENCES, PROMPT_TOKENS, Case
from ssjf_cli import engine_profile
from ssjf_cli.process import StackError
from ssjf_cli.stack import Stack, StackOptions

CONTEXT_TOKENS: Final = 4096
CPU_KV_TOKENS: Final = 32_768
PROFILED_STEPS: Final = 64
"""Of the longest case that is profiled: a profile of a long one is gigabytes."""


class EngineBenchError(Exception):
    """The engine did not do what was asked of it."""


FAILURES: Final = (EngineBenchError, engine_load.EngineLoadError, StartupError, StackError)


Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class EngineBenchOptions:
    """What is measured."""

    shape: str
    device: str
    dtype: str
    cases: tuple[str, ...]
    repeats: int
    """Measurements of each case after one that warms up; the median is reported."""
    through_serve: bool
    """Also over loopback gRPC."""
    transformers: bool
    """Also transformers' `generate`."""
    profile: bool
    """Also where a decode step's time goes."""
    max_prefill_tokens: int | None = None
    """The engine's setting of that name; None: its own choice."""


@dataclass(frozen=True, slots=True)
class Measured:
    """One case, once."""

    seconds: float
    steps: int
    decode_step_ms: float | None
    """Median of steps that read no prompt; None where nobody knows."""


def measure(options: EngineBenchOptions, say: Say) -> dict[str, Any]:
    """All cases, as plain data. Raises one of FAILURES."""
    say(f"starting {options.shape}")
    began_s = time.perf_counter()
    assembled = assemble(_settings(options))
    start_s = time.perf_counter() - began_s
    # As the engine's own process does: what stays need not be looked at again.
    gc.collect()
    gc.freeze()
    results = list(_in_process(assembled, options, say))
    profiles = []
    if options.profile:
        say("profile")
        short = [CASES[name] for name in options.cases if CASES[name].steps <= PROFILED_STEPS]
        profiles = [_profile(assembled, case) for case in short]
    vocabulary = assembled.loaded.config.vocabulary_size
    dtype, kv_tokens = assembled.loaded.model.dtype, assembled.shape.total_blocks * 16
    del assembled
    _release_memory()
    if options.transformers:
        results += _transformers(options, dtype, say)
    if options.through_serve:
        results += _through_serve(options, vocabulary, say)
    return {
        "shape": options.shape,
        "device": options.device,
        "dtype": str(dtype).removeprefix("torch."),
        "threads": torch.get_num_threads(),
        "prompt_tokens": PROMPT_TOKENS,
        "max_sequences": MOST_SEQUENCES[options.device],
        "kv_tokens": kv_tokens,
        "max_prefill_tokens": options.max_prefill_tokens,
        "start_s": start_s,
        "results": results,
        **({"profiles": profiles} if profiles else {}),
    }


def _settings(options: EngineBenchOptions) -> EngineSettings:
    return EngineSettings.model_validate(_flags(options))


def _flags(options: EngineBenchOptions) -> dict[str, Any]:
    on_cpu, prefill_tokens = options.device == "cpu", options.max_prefill_tokens
    return {
        "model": f"shape:{options.shape}",
        "device": options.device,
        "dtype": options.dtype,
        "max_sequences": MOST_SEQUENCES[options.device],
        "max_context_tokens": CONTEXT_TOKENS,
        "prefix_reuse": False,
        "benchmark": True,
        **({"kv_tokens": CPU_KV_TOKENS} if on_cpu else {}),
        **({"max_prefill_tokens": prefill_tokens} if prefill_tokens else {}),
    }


def _in_process(
    assembled: Assembled, options: EngineBenchOptions, say: Say
) -> Iterator[dict[str, Any]]:
    for name in options.cases:
        say(f"{name}, in process")
        case = CASES[name]
        measured = [run(assembled, case) for _ in range(options.repeats + 1)][1:]
        yield _row(case, "in-process", measured)


def _row(case: Case, through: str, measured: list[Measured]) -> dict[str, Any]:
    middle = sorted(measured, key=lambda m: m.seconds)[len(measured) // 2]
    return {
        "case": case.name,
        "through": through,
        "requests": len(case.output_tokens),
        "output_tokens": case.total_tokens,
        "tokens_per_s": case.total_tokens / middle.seconds,
        "step_ms": 1e3 * middle.seconds / middle.steps if middle.steps else None,
        **asdict(middle),
        "all_seconds": [each.seconds for each in measured],
    }


def run(assembled: Assembled, case: Case) -> Measured:
    """One case on an engine whose loop nobody runs. Raises EngineBenchError."""
    reports: list[Report] = []
    left = len(case.output_tokens)

    def take(report: Report) -> None:
        nonlocal left
        reports.append(report)
        left -= len(report.finished) + len(report.failed)
        if not left:
            assembled.mailbox.post(Stop())

    prompts = case.prompts(assembled.loaded.config.vocabulary_size)
    sequences = tuple(
        Sequence(number, tuple(prompt), SamplingParams(tokens), forced_tokens=tokens)
        for number, (prompt, tokens) in enumerate(zip(prompts, case.output_tokens, strict=True))
    )
    assembled.mailbox.post(Attach(take))
    assembled.mailbox.post(Start(1, sequences))
    began_s = time.perf_counter()
    assembled.engine.run_forever()
    seconds = time.perf_counter() - began_s
    assembled.mailbox.post(Detach())
    assembled.engine.obey(wait=False)
    _check(case, reports)
    decode = [r.step_ms for r in reports if r.token_ids and not r.prompt_tokens]
    steps = sum(bool(report.step) for report in reports)
    return Measured(seconds, steps, statistics.median(decode) if decode else None)


def _check(case: Case, reports: list[Report]) -> None:
    if failed := [each for report in reports for each in report.failed]:
        raise EngineBenchError(f"{case.name}: {len(failed)} failed: {failed[0].message}")
    tokens = sum(len(report.token_ids) for report in reports)
    if tokens != case.total_tokens:
        raise EngineBenchError(f"{case.name}: {tokens} tokens came, not {case.total_tokens}")


def _profile(assembled: Assembled, case: Case) -> dict[str, Any]:
    return {"case": case.name} | engine_profile.profile(lambda: run(assembled, case))


def _release_memory() -> None:
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def _transformers(
    options: EngineBenchOptions, dtype: torch.dtype, say: Say
) -> Iterator[dict[str, Any]]:
    from ssjf_cli import engine_transformers

    model = engine_transformers.build(options.shape, options.device, dtype)
    for name in options.cases:
        say(f"{name}, transformers")
        case, most = CASES[name], MOST_SEQUENCES[options.device]
        measured = [
            engine_transformers.seconds(model, case, most) for _ in range(options.repeats + 1)
        ]
        yield _row(case, "transformers", [Measured(s, 0, None) for s in measured[1:]])


def _through_serve(
    options: EngineBenchOptions, vocabulary_size: int, say: Say
) -> Iterator[dict[str, Any]]:
    with Stack(StackOptions(engine=_flags(options), predictor=None, gateway=None)) as stack:
        for name in options.cases:
            say(f"{name}, through Serve")
            case = CASES[name]
            works = [
                engine_load.Work(tuple(prompt), tokens)
                for prompt, tokens in zip(
                    case.prompts(vocabulary_size), case.output_tokens, strict=True
                )
            ]
            figures = engine_load.measure(stack.engine_address, works, options.repeats + 1)
            stack.check()
            yield _served_row(case, figures[1:])


def _served_row(case: Case, figures: list[engine_load.ServeFigures]) -> dict[str, Any]:
    measured = [Measured(each.seconds, each.steps, each.step_ms) for each in figures]
    row = _row(case, "serve", measured)
    middle = next(each for each in figures if each.seconds == row["seconds"])
    details = ("steps_s", "messages", "first_token_ms", "client_cpu_s")
    return row | {name: getattr(middle, name) for name in details}
