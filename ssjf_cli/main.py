"""The `ssjf` command: options and what is printed.

The work is elsewhere (`stack`, `client`, `demo`, `predictor`, `bench`) and imported when its
command runs, so that `--help` needs neither grpc nor torch nor matplotlib.
"""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from rich.console import Console

from ssjf_cli import bench, predictor

if TYPE_CHECKING:
    from ssjf_cli.stack import Stack

console = Console(stderr=True)
app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    help="Serve an LLM shortest predicted job first.",
)

app.add_typer(predictor.app, name="predictor")
app.add_typer(bench.app, name="bench")

GATEWAY_PORT, PREDICTOR_PORT, ENGINE_PORT = 50051, 50052, 50053


class PolicyName(StrEnum):
    """Policies that `ssjf up` offers."""

    default = "default"
    fcfs = "fcfs"
    ssjf = "ssjf"
    bounded_ssjf = "bounded-ssjf"
    tail_ssjf = "tail-ssjf"
    ssjf_ageing = "ssjf-ageing"
    hrrn = "hrrn"


class PriorityName(StrEnum):
    """Priority classes."""

    batch = "batch"
    standard = "standard"
    urgent = "urgent"


@app.command()
def up(
    host: Annotated[str, typer.Option(help="Address that the gateway listens on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The gateway's port; 0: any.")] = GATEWAY_PORT,
    predictor_port: Annotated[int, typer.Option(help="0: any.")] = PREDICTOR_PORT,
    engine_port: Annotated[int, typer.Option(help="0: any.")] = ENGINE_PORT,
    policy: Annotated[PolicyName, typer.Option(help="Order of the queue.")] = PolicyName.default,
    model: Annotated[
        str | None, typer.Option(help="Hugging Face directory; by default the embedded model.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="The engine's device, cpu or cuda.")] = None,
    max_sequences: Annotated[
        int | None, typer.Option(min=1, help="Sequences that the engine runs at once.")
    ] = None,
    insecure_bind: Annotated[
        bool, typer.Option(help="Allow plain text on an address that is not loopback.")
    ] = False,
    log_dir: Annotated[
        Path | None, typer.Option(help="Keep the services' logs here; else removed at the end.")
    ] = None,
) -> None:
    """Starts the three services and stops them on Ctrl-C.

    Everything else is configured by the services' environment variables; see
    `python -m engine_svc --help` and its like.
    """
    from ssjf_cli.stack import Stack, StackOptions

    engine = {"model": model, "device": device, "max_sequences": max_sequences}
    gateway = {"policy": policy.value, "insecure_bind": insecure_bind or None}
    options = StackOptions(
        engine={name: value for name, value in engine.items() if value is not None},
        gateway={name: value for name, value in gateway.items() if value is not None},
        host=host,
        ports={"gateway": port, "predictor": predictor_port, "engine": engine_port},
        log_dir=log_dir,
    )
    with ended_by_signals(), failing_cleanly():
        stack = Stack(options)
        try:
            with console.status("starting engine, predictor and gateway …"):
                stack.start(lambda service: _listens(stack, service.name, service.address))
            console.print("Ctrl-C stops them. Try:", highlight=False)
            console.print(
                f'  ssjf generate "What is a queue?" --address {stack.gateway_address}',
                style="bold",
                highlight=False,
            )
            stack.watch()
        except KeyboardInterrupt:
            console.print("stopping …")
        finally:
            stack.stop()


def _listens(stack: Stack, name: Any, address: str) -> None:
    console.print(f"{name:<10} {address:<22} log {stack.log_path(name)}", highlight=False)


@app.command()
def generate(
    prompt: Annotated[str, typer.Argument(help="One user message.")],
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer, in tokens.")] = None,
    temperature: Annotated[float | None, typer.Option(help="0 is greedy.")] = None,
    seed: Annotated[int | None, typer.Option(min=0, help="Makes a sampled answer repeatable.")] = (
        None
    ),
    priority: Annotated[PriorityName, typer.Option(help="Class.")] = PriorityName.standard,
    address: Annotated[
        str, typer.Option(envvar="SSJF_ADDRESS", help="The gateway's HOST:PORT.")
    ] = f"127.0.0.1:{GATEWAY_PORT}",
    token: Annotated[
        str | None, typer.Option(envvar="SSJF_TOKEN", help="Bearer token, where one is needed.")
    ] = None,
) -> None:
    """Streams one answer to the terminal."""
    from ssjf.engine.v1 import sampling_pb2
    from ssjf.gateway.v1 import gateway_pb2
    from ssjf_cli import client

    try:
        request = gateway_pb2.GenerateRequest(
            prompt=prompt,
            sampling=sampling_pb2.SamplingParams(
                max_tokens=max_tokens, temperature=temperature, seed=seed
            ),
            priority=gateway_pb2.PriorityClass.Value(f"PRIORITY_CLASS_{priority.value.upper()}"),
        )
    except ValueError as error:  # a number that the field's type does not hold
        raise typer.BadParameter(str(error)) from None
    with ended_by_signals():
        raise typer.Exit(client.generate(address, request, console, token))


@app.command()
def top(
    once: Annotated[
        bool, typer.Option("--once", help="Print one snapshot and end; for scripts.")
    ] = False,
    interval: Annotated[
        float, typer.Option(min=0.05, max=60, help="Seconds from one snapshot to the next.")
    ] = 1.0,
    address: Annotated[
        str, typer.Option(envvar="SSJF_ADDRESS", help="The gateway's HOST:PORT.")
    ] = f"127.0.0.1:{GATEWAY_PORT}",
    token: Annotated[
        str | None, typer.Option(envvar="SSJF_TOKEN", help="Bearer token of an admin.")
    ] = None,
) -> None:
    """Shows the queue live: who waits, why, what runs, predicted against actual."""
    from ssjf_cli import top as screens

    out = Console()
    with ended_by_signals():
        if once:
            raise typer.Exit(screens.once(address, token, out, console))
        raise typer.Exit(screens.watch(address, token, interval, out, console))


@app.command()
def demo(
    quick: Annotated[
        bool, typer.Option(help="A few prompts and short answers: does it run? Not a measurement.")
    ] = False,
    out: Annotated[Path, typer.Option(help="Folder for demo.json and demo.png.")] = Path(
        "demo-results"
    ),
) -> None:
    """Replays a workload under FCFS, SSJF and an oracle, and shows what SSJF gains."""
    try:
        from ssjf_cli import demo as demonstration
    except ModuleNotFoundError as missing:
        _fail(f"the demo needs {missing.name}: pip install 'ssjf[bench]'")
    settings = demonstration.QUICK if quick else demonstration.FULL
    with ended_by_signals(), failing_cleanly():
        raise typer.Exit(demonstration.run(settings, out, console))


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """SIGTERM and SIGHUP end the command as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    numbers = (signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, interrupt) for number in numbers]
    try:
        yield
    finally:
        for number, handler in zip(numbers, before, strict=True):
            signal.signal(number, handler)


@contextmanager
def failing_cleanly() -> Iterator[None]:
    """Turns foreseen failures into their message and exit code 1, Ctrl-C into 130."""
    from ssjf_bench.workload import WorkloadError
    from ssjf_cli.process import StackError

    try:
        yield
    except (StackError, WorkloadError) as error:
        _fail(str(error))
    except KeyboardInterrupt:
        raise typer.Exit(130) from None


def _fail(message: str) -> NoReturn:
    line = f"ssjf: {message}"
    console.print(line, style="red", markup=False, highlight=False, soft_wrap=True)
    raise typer.Exit(1) from None


def main() -> None:
    """Entry point of the `ssjf` command."""
    app()
