"""The engine as a process: exit codes, and what it says when it cannot start."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from engine_svc import __main__ as main
from engine_svc import loop_thread
from engine_svc.assembly import Assembled
from engine_svc.config import EngineSettings
from ssjf.wire import channel, server
from ssjf.wire.run import StartupError

from .conftest import MakeEngine
from .gateway_side import Gateway, hello, sequence


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "engine_svc", "--device", "cpu", "--threads", "1", *arguments],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


def test_help_explains_every_setting() -> None:
    shown = run("--help")
    assert shown.returncode == 0
    words = " ".join(shown.stdout.split())
    for name, field in EngineSettings.model_fields.items():
        assert f"--{name.replace('_', '-')}" in shown.stdout
        assert field.description
        assert " ".join(field.description.split())[:40] in words


@pytest.mark.parametrize(
    ("arguments", "key"),
    [
        (("--max-sequences", "0"), "--max-sequences (SSJF_ENGINE_MAX_SEQUENCES)"),
        (("--device", "tpu"), "--device (SSJF_ENGINE_DEVICE)"),
        (("--kv-memory-fraction", "nan"), "--kv-memory-fraction (SSJF_ENGINE_KV_MEMORY_FRACTION)"),
    ],
)
def test_a_wrong_setting_exits_with_2_and_names_it(arguments: Sequence[str], key: str) -> None:
    ended = run(*arguments)
    assert ended.returncode == 2
    assert key in ended.stderr


def test_a_model_that_is_missing_exits_with_1_and_one_line(tmp_path: Path) -> None:
    ended = run("--model", str(tmp_path / "none.gguf"))
    assert ended.returncode == 1
    assert ended.stderr.splitlines() == [
        f"engine_svc: model {tmp_path / 'none.gguf'}: no such file or folder"
    ]


def test_a_damaged_model_exits_with_1_and_one_line(tmp_path: Path) -> None:
    damaged = tmp_path / "damaged.gguf"
    damaged.write_bytes(b"GGUF" + bytes(range(256)))
    ended = run("--model", str(damaged))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1


def test_a_port_in_use_exits_with_1_and_one_line(tiny_folder: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        ended = run("--model", str(tiny_folder), "--port", str(port), "--log-level", "error")
    assert ended.returncode == 1
    assert f"cannot listen on 127.0.0.1:{port}" in ended.stderr


@asynccontextmanager
async def started(model: Path, *arguments: str) -> AsyncIterator[tuple[Process, str]]:
    """The engine as a process that serves, and its address."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "engine_svc", "--device", "cpu", "--threads", "1"),
        *("--model", str(model), "--port", str(port), *arguments),
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        await _serving(f"127.0.0.1:{port}", main.SERVICE)
        yield process, f"127.0.0.1:{port}"
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


@pytest.mark.parametrize("loop", ["thread", "process"])
async def test_it_serves_until_a_signal_and_exits_with_0(tiny_folder: Path, loop: str) -> None:
    async with started(tiny_folder, "--loop", loop) as (process, address):
        async with Gateway(address) as gateway:
            await gateway.send_batch(1, [sequence(1, max_tokens=60, ignore_eos=True)])
            await gateway.until("step")
            process.send_signal(signal.SIGTERM)
            await gateway.until("drained")
            assert len(gateway.tokens(1)) == 60
        assert await asyncio.wait_for(process.wait(), 30) == 0


async def test_a_loop_process_that_is_killed_ends_the_engine_with_1_and_one_line(
    tiny_folder: Path,
) -> None:
    async with started(tiny_folder, "--loop", "process", "--log-level", "error") as (process, _):
        os.kill(_child_of(process.pid), signal.SIGKILL)
        _, stderr = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 1
        assert stderr.decode().splitlines()[-1] == (
            "engine_svc: the engine loop broke: killed by SIGKILL"
        )


async def test_a_loop_process_does_not_outlive_an_engine_that_is_killed(
    tiny_folder: Path,
) -> None:
    async with started(tiny_folder, "--loop", "process") as (process, _):
        child = _child_of(process.pid)
        process.kill()
        await process.wait()
        while _is_alive(child):  # noqa: ASYNC110 (no event tells of another's child)
            await asyncio.sleep(0.02)


def _child_of(pid: int) -> int:
    (child,) = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    return int(child)


def _is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"  # dead, and waiting for whoever has adopted it


async def _serving(address: str, service: str) -> None:
    async with channel.connect(address) as opened:
        stub: Any = health_pb2_grpc.HealthStub(opened)
        for name in ("", service):
            request = health_pb2.HealthCheckRequest(service=name)
            answer = await stub.Check(request, wait_for_ready=True, timeout=100)
            while answer.status != health_pb2.HealthCheckResponse.SERVING:
                await asyncio.sleep(0.05)
                answer = await stub.Check(request, timeout=10)


async def test_a_broken_loop_ends_the_process(
    make_engine: MakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def assemble(settings: EngineSettings) -> Assembled:
        assembled = make_engine()
        monkeypatch.setattr(assembled.engine, "turn", _cuda_error)
        return assembled

    monkeypatch.setattr(loop_thread, "assemble", assemble)
    served: Any = asyncio.ensure_future(
        _serve_on(monkeypatch, EngineSettings(port=0, device="cpu"))
    )
    with pytest.raises(StartupError, match="the engine loop broke: RuntimeError"):
        await asyncio.wait_for(served, 30)


async def _serve_on(monkeypatch: pytest.MonkeyPatch, settings: EngineSettings) -> None:
    gateways: list[Gateway] = []

    async def listen_and_connect(*arguments: Any) -> Any:
        listening = await server.listen(*arguments)
        gateway = Gateway(listening.address)
        gateway.open()
        gateways.append(gateway)
        # The stream's first command wakes the loop, which then breaks.
        await gateway.send(hello=hello())
        return listening

    monkeypatch.setattr(main, "listen", listen_and_connect)
    try:
        await main.serve(settings)
    finally:
        for gateway in gateways:
            await gateway.close()


def _cuda_error(_: object) -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")
