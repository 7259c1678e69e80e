"""`ssjf predictor collect | convert`: where the data to train on comes from.

Owns their options and what they print. The work is done in `predictor_svc.training`,
imported when a command runs. Registered by `predictor`.
"""

from __future__ import annotations

import asyncio
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ssjf_cli.predictor_options import ExcludeSource, console, failing_cleanly, progress_bar

if TYPE_CHECKING:
    from predictor_svc.training.collect import Driver, Tally


class Form(StrEnum):
    """Published forms that `convert` reads."""

    lmsys = "lmsys-chat-1m"
    sharegpt = "sharegpt"
    alpaca = "alpaca"
    castillo = "castillo"


class Rounds(StrEnum):
    """Which questions of a conversation `convert` takes."""

    first = "first"
    all = "all"


def collect(
    prompts: Annotated[
        list[Path], typer.Option(help="JSONL or CSV, plain or .gz, with prompts; repeatable.")
    ],
    out: Annotated[Path, typer.Option(help="JSONL to append to; prompts in it are skipped.")],
    engine: Annotated[
        str | None, typer.Option(help="HOST:PORT of a running engine that no gateway uses.")
    ] = None,
    gateway: Annotated[
        str | None, typer.Option(help="HOST:PORT of a running gateway, in place of --engine.")
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers a prompt.")] = 6,
    max_tokens: Annotated[int, typer.Option(min=1, help="Longest answer.")] = 1024,
    temperature: Annotated[float, typer.Option(min=0.0, max=2.0)] = 0.7,
    top_p: Annotated[float, typer.Option(min=0.01, max=1.0)] = 0.95,
    concurrency: Annotated[
        int | None,
        typer.Option(min=1, help="Answers in flight; what an engine holds, 32 at a gateway."),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the sampling; none by default.")] = None,
    text: Annotated[
        bool, typer.Option(help="Write the prompts; --no-text writes their SHA-256 instead.")
    ] = True,
    exclude_source: ExcludeSource = [],  # noqa: B006 (typer copies it)
    limit: Annotated[int | None, typer.Option(min=1, help="First N prompts only.")] = None,
) -> None:
    """Samples answers' lengths for every prompt through a running engine or gateway.

    A run that was stopped goes on where it was when it is started again.
    """
    from predictor_svc.training.collect import CollectError, Tally
    from predictor_svc.training.collect import Progress as Collected
    from predictor_svc.training.data import DataError, read_prompts
    from predictor_svc.training.lengths_file import LengthsFile
    from predictor_svc.training.sampling import Sampling

    address = engine or gateway
    if address is None or (engine and gateway):
        raise typer.BadParameter("give one of --engine and --gateway")
    with failing_cleanly(CollectError, DataError), LengthsFile(out, with_text=text) as file:
        wanted = read_prompts(prompts, exclude_source)[:limit]
        missing = [prompt for prompt in wanted if prompt.digest not in file.done]
        console.print(f"{len(wanted)} prompts, {len(wanted) - len(missing)} of them in {out}")
        with progress_bar() as bar:
            task = bar.add_task("collecting", total=len(missing))

            def show(progress: Collected) -> None:
                done = progress.prompts_done + progress.prompts_failed
                bar.update(task, completed=done)

            sampling = Sampling(samples, max_tokens, temperature, top_p, seed)
            driver = _driver(Tally(sampling, file.append, show), engine is not None, concurrency)
            progress = asyncio.run(driver.run(address, missing))
    console.print(
        f"{progress.prompts_done} prompts, {progress.answers} answers, "
        f"{progress.output_tokens} tokens; {progress.prompts_failed} prompts failed or do not fit"
    )


def _driver(tally: Tally, is_engine: bool, concurrency: int | None) -> Driver:
    from predictor_svc.training.collect_engine import EngineCollector
    from predictor_svc.training.collect_gateway import CONCURRENCY, GatewayCollector

    if is_engine:
        return EngineCollector(tally, concurrency)
    return GatewayCollector(tally, concurrency or CONCURRENCY)


def convert(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Parquet, a JSON array or JSON lines, as published.", metavar="FILE..."
        ),
    ],
    form: Annotated[Form, typer.Option("--from", help="The form of the files.")],
    out: Annotated[Path, typer.Option(help=".jsonl or .jsonl.gz to write.")],
    model: Annotated[
        str,
        typer.Option(help="Only this LLM's answers; where a file names none, the name to write."),
    ] = "",
    rounds: Annotated[
        Rounds, typer.Option(help="The first question of each conversation, or all.")
    ] = Rounds.first,
    max_turns: Annotated[
        int, typer.Option(min=0, help="Messages before a question that are written, at most.")
    ] = 20,
    tokenizer: Annotated[
        Path | None,
        typer.Option(
            help="tokenizer.json that counts response_length: the LLM's own for its true lengths. "
            "By default the packaged MiniLM's, which has about as many tokens as words and signs. "
            "Not for castillo, whose lengths are published."
        ),
    ] = None,
) -> None:
    """Writes LMSYS-Chat-1M, ShareGPT, Alpaca or CASTILLO files as data to train on."""
    from predictor_svc.training import convert_castillo
    from predictor_svc.training.convert import Converted, Wanted
    from predictor_svc.training.convert import convert as write
    from predictor_svc.training.rows import DataError

    if form is Form.castillo and tokenizer:
        raise typer.BadParameter("castillo has lengths, and no answers to count: no --tokenizer")
    wanted = Wanted("first" if rounds is Rounds.first else "all", model, max_turns)
    with failing_cleanly(DataError), progress_bar() as bar:
        task = bar.add_task("rows written", total=None)

        def show(done: Converted) -> None:
            bar.update(task, completed=done.rows)

        if form is Form.castillo:
            done = convert_castillo.convert(files, out, model, show)
        else:
            counted_by = tokenizer or _packaged_tokenizer()
            done = write(form.value, files, out, counted_by, wanted, show)
    reasons = ", ".join(f"{count} for {reason}" for reason, count in done.skipped.items())
    left_out = f"; left out {reasons}" if reasons else ""
    console.print(
        f"{done.conversations} conversations, {done.rows} rows in {out}{left_out}",
        highlight=False,
        soft_wrap=True,
    )


def _packaged_tokenizer() -> Path:
    from predictor_svc.training.backbone import BackboneMissing, packaged_folder

    with failing_cleanly(BackboneMissing):
        return packaged_folder() / "tokenizer.json"
