"""A Node client of the real stack: generates, cancels, decodes an error's details.

Owns the installation of the client's packages. The client (`tests/node/client.js`)
reads the .proto files alone, so that the contract is proven in another language.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import google.rpc
import grpc
import pytest

from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from ssjf_cli.stack import Stack

pytestmark = pytest.mark.service

ROOT = Path(__file__).parents[1]
CLIENT_DIR = ROOT / "tests" / "node"
# The .proto files of google.rpc lie beside their Python modules.
GOOGLE_PROTO_DIR = Path(next(iter(google.rpc.__path__))).parents[1]
INSTALL_TIMEOUT_S = 60
CALL_TIMEOUT_S = 90
# npm's words for a registry out of reach: https://docs.npmjs.com/common-errors
UNREACHABLE = ("ENOTFOUND", "EAI_AGAIN", "ECONNREFUSED", "ECONNRESET", "ETIMEDOUT", "ENETUNREACH")

Line = dict[str, Any]


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The client's script, its packages installed beside a copy of it."""
    for tool in ("node", "npm"):
        if shutil.which(tool) is None:
            pytest.skip(f"{tool} is not installed")
    folder = tmp_path_factory.mktemp("node")
    for name in ("client.js", "package.json", "package-lock.json", ".npmrc"):
        shutil.copy(CLIENT_DIR / name, folder)
    command = ["npm", "ci", "--ignore-scripts", "--fetch-retries=1", "--fetch-retry-mintimeout=500"]
    try:
        installed = subprocess.run(
            command, cwd=folder, capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S
        )
    except subprocess.TimeoutExpired:
        pytest.skip(f"npm ci took over {INSTALL_TIMEOUT_S} s: the registry is slow or out of reach")
    if any(word in installed.stderr for word in UNREACHABLE):
        pytest.skip("npm ci reaches no registry")
    assert installed.returncode == 0, installed.stderr
    return folder / "client.js"


def run(client: Path, mode: str, stack: Stack) -> Sequence[Line]:
    """What the client prints in `mode`."""
    done = subprocess.run(
        ["node", client, mode, stack.gateway_address, ROOT / "protos", GOOGLE_PROTO_DIR],
        capture_output=True,
        text=True,
        timeout=CALL_TIMEOUT_S,
    )
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def counters(stack: Stack) -> gateway_pb2.GetQueueResponse:
    """The gateway's queue and counters now."""
    with grpc.insecure_channel(stack.gateway_address) as channel:
        stub = gateway_pb2_grpc.GatewayServiceStub(channel)
        return stub.GetQueue(gateway_pb2.GetQueueRequest(), timeout=10)


def test_node_client_reads_the_whole_stream_of_an_answer(client: Path, stack: Stack) -> None:
    lines = run(client, "generate", stack)
    events = [next(iter(line)) for line in lines]
    assert events[:2] == ["queued", "started"]
    assert set(events[2:-2]) == {"delta"}
    assert events[-2:] == ["finished", "status"]
    assert lines[-1] == {"status": "OK"}
    tokens = [token for line in lines[2:-2] for token in line["delta"]["token_ids"]]
    assert lines[-2]["finished"]["usage"]["output_tokens"] == len(tokens) > 0


def test_node_client_cancels_a_running_answer(client: Path, stack: Stack) -> None:
    before = counters(stack).counters.cancelled
    lines = run(client, "cancel", stack)
    assert lines[-1]["status"] == "CANCELLED"
    assert not any("finished" in line for line in lines)
    give_up = time.monotonic() + 10
    while (now := counters(stack)).running_count and time.monotonic() < give_up:
        time.sleep(0.05)
    assert now.counters.cancelled == before + 1
    assert now.running_count == 0


def test_node_client_decodes_the_details_of_an_error(client: Path, stack: Stack) -> None:
    [failure] = run(client, "error", stack)
    assert failure["status"] == "INVALID_ARGUMENT"
    details = {detail["@type"]: detail for detail in failure["details"]}
    info = details["google.rpc.ErrorInfo"]
    assert (info["domain"], info["reason"]) == ("ssjf", "INVALID_REQUEST")
    violations = details["google.rpc.BadRequest"]["field_violations"]
    assert {violation["field"] for violation in violations} >= {
        "sampling.temperature",
        "sampling.max_tokens",
    }
