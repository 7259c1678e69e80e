from __future__ import annotations

import asyncio
import io

import grpc
import pytest
from rich.console import Console

from ssjf.gateway.v1 import gateway_pb2
from ssjf.wire.errors import ErrorDetails, Violation
from ssjf_cli import client
from tests.ssjf_bench.fake_gateway import fake_gateway


async def generate(prompt: str) -> tuple[int, str]:
    """Exit code, and what was said beside the answer."""
    said = io.StringIO()
    console = Console(file=said, width=40)
    request = gateway_pb2.GenerateRequest(prompt=prompt)
    async with fake_gateway() as (_, address):
        code = await asyncio.to_thread(client.generate, address, request, console)
    return code, said.getvalue()


async def test_the_answer_alone_goes_to_stdout(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = await generate("one two three")
    assert code == 0
    assert capsys.readouterr().out == "one two three \n"
    assert said == (
        "eos · 30 tokens in, 3 out · predicted 4 (model), actual 3 · "
        "queue wait 12 ms · TTFT 34 ms · total 1.50 s\n"
    )


async def test_an_error_is_one_line_and_exit_code_1(capsys: pytest.CaptureFixture[str]) -> None:
    code, said = await generate("fail")
    assert code == 1
    assert said == (
        "ssjf: RESOURCE_EXHAUSTED QUEUE_FULL: queue: 3 requests wait (try again in 1.5 s)\n"
    )
    assert capsys.readouterr().out == ""


def test_nobody_listening_is_one_line_and_exit_code_1() -> None:
    said = io.StringIO()
    request = gateway_pb2.GenerateRequest(prompt="x")
    assert client.generate("127.0.0.1:1", request, Console(file=said)) == 1
    (line,) = said.getvalue().splitlines()
    assert line.startswith("ssjf: UNAVAILABLE: ")


def test_every_violation_is_in_the_line() -> None:
    violations = (Violation("sampling.top_p", "must be in (0, 1]"), Violation("", "no\nmessage"))
    details = ErrorDetails(
        grpc.StatusCode.INVALID_ARGUMENT, "invalid", "INVALID_REQUEST", violations=violations
    )
    assert client.describe(details) == (
        "INVALID_ARGUMENT INVALID_REQUEST: sampling.top_p: must be in (0, 1]; request: no message"
    )


def test_a_terminal_is_not_at_the_models_mercy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    assert client.printable("a\x1b[31m\tb\n\x07é") == "a\\x1b[31m\tb\n\\x07é"


def test_a_pipe_gets_the_answer_as_it_is() -> None:
    assert client.printable("a\x1b[31m") == "a\x1b[31m"
