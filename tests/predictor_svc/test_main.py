"""The service as a process: how it starts, refuses to start, and stops."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from ssjf.predictor.v1 import predictor_pb2, predictor_pb2_grpc
from ssjf.wire.channel import connect_blocking
from tests.predictor_svc.small_model import write_model

SERVICE = "ssjf.predictor.v1.PredictorService"


def start(*flags: str, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "predictor_svc", "--port", "0", "--threads", "1", *flags],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env=os.environ | environment,
    )


@pytest.fixture
def model_dir(tmp_path: Path) -> Path:
    write_model(tmp_path, "revision-1")
    return tmp_path


@contextmanager
def serving(model_dir: Path, *flags: str) -> Iterator[tuple[subprocess.Popen[str], str]]:
    process = start("--model-dir", str(model_dir), *flags)
    try:
        assert process.stderr is not None
        for line in process.stderr:
            if found := re.search(r'"address": "([^"]+)"', line):
                yield process, found[1]
                break
        else:
            pytest.fail("it never said where it serves")
    finally:
        process.kill()
        process.communicate()


def test_it_serves_and_stops_cleanly_on_sigterm(model_dir: Path) -> None:
    with serving(model_dir) as (process, address):
        with connect_blocking(address) as channel:
            health: Any = health_pb2_grpc.HealthStub(channel)
            for name in ("", SERVICE):
                request = health_pb2.HealthCheckRequest(service=name)
                status = health.Check(request, timeout=10, wait_for_ready=True).status
                assert status == health_pb2.HealthCheckResponse.SERVING
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=20)
        assert process.returncode == 0


def test_without_a_model_one_line_says_what_to_run(tmp_path: Path) -> None:
    process = start(SSJF_PREDICTOR_MODEL_DIR=str(tmp_path))
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    assert errors.splitlines() == [
        f"predictor_svc: no model.json in {tmp_path}: run `ssjf predictor export`"
    ]


def test_a_wrong_setting_is_named(tmp_path: Path) -> None:
    process = start("--model-dir", str(tmp_path), SSJF_PREDICTOR_MAX_BATCH="none")
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert "SSJF_PREDICTOR_MAX_BATCH" in errors
    assert len(errors.splitlines()) == 1


def test_a_port_in_use_is_one_line_before_any_model_is_loaded(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        process = start("--model-dir", str(tmp_path), "--port", str(port))
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert f"cannot listen on 127.0.0.1:{port}" in line


def test_a_new_model_in_the_folder_is_served(model_dir: Path) -> None:
    with (
        serving(model_dir, "--watch-interval-s", "0.05") as (_, address),
        connect_blocking(address) as channel,
    ):
        stub: Any = predictor_pb2_grpc.PredictorServiceStub(channel)
        request = predictor_pb2.GetPredictorInfoRequest()
        info = stub.GetPredictorInfo(request, timeout=10, wait_for_ready=True)
        assert info.revision == "revision-1"
        write_model(model_dir, "revision-2")
        while stub.GetPredictorInfo(request, timeout=10).revision != "revision-2":
            time.sleep(0.02)


def test_help_explains_every_setting() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "predictor_svc", "--help"],
        capture_output=True,
        text=True,
        check=True,
    )
    flags = ("--model-dir", "--provider", "--precision", "--max-wait-ms", "--cache-items")
    for flag in flags:
        assert flag in done.stdout
    assert "Milliseconds that a prompt waits for company" in done.stdout
