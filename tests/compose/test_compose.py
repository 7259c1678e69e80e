"""The real containers: built, brought up, used through the published port, stopped."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator

import grpc
import pytest

from ssjf.engine.v1 import sampling_pb2
from ssjf.gateway.v1 import gateway_pb2, gateway_pb2_grpc
from tests.compose.project import SERVICES, CommandError, Project, machine_pip_settings, run

pytestmark = [pytest.mark.docker, pytest.mark.timeout(3000)]

CALL_TIMEOUT_S = 120
PREDICTOR_PORT = 50052
ESTABLISHED = "01"
"""Of a connection, in Linux's /proc/net/tcp."""


@pytest.fixture
def gateway(project: Project) -> Iterator[gateway_pb2_grpc.GatewayServiceStub]:
    """The gateway through its published port."""
    with grpc.insecure_channel(project.gateway_address()) as channel:
        yield gateway_pb2_grpc.GatewayServiceStub(channel)


def greedy(max_tokens: int) -> gateway_pb2.GenerateRequest:
    """A request whose answer has `max_tokens` tokens."""
    return gateway_pb2.GenerateRequest(
        prompt="Name the planets.",
        sampling=sampling_pb2.SamplingParams(max_tokens=max_tokens, temperature=0, ignore_eos=True),
    )


def test_generates_through_the_published_port(
    gateway: gateway_pb2_grpc.GatewayServiceStub,
) -> None:
    events = list(gateway.Generate(greedy(16), timeout=CALL_TIMEOUT_S, wait_for_ready=True))
    kinds = [event.WhichOneof("event") for event in events]
    assert kinds[:2] == ["queued", "started"]
    assert set(kinds[2:-1]) == {"delta"}
    assert kinds[-1] == "finished"
    assert events[-1].finished.usage.output_tokens == 16
    assert "".join(event.delta.text for event in events).strip()


def test_gateway_hears_from_the_predictor(gateway: gateway_pb2_grpc.GatewayServiceStub) -> None:
    give_up = time.monotonic() + CALL_TIMEOUT_S
    revision = ""
    while not revision and time.monotonic() < give_up:
        list(gateway.Generate(greedy(1), timeout=CALL_TIMEOUT_S, wait_for_ready=True))
        answer = gateway.GetServerInfo(gateway_pb2.GetServerInfoRequest(), timeout=CALL_TIMEOUT_S)
        revision = answer.predictor.revision
    assert revision


def test_two_predictors_behind_one_name_are_both_connected_to(project: Project) -> None:
    assert len(project.scale("predictor", 2)) == 2
    try:
        project.compose("restart", "gateway")  # names are resolved when a gateway connects
        project.wait_healthy("gateway")
        with grpc.insecure_channel(project.gateway_address()) as channel:  # a new port
            stub = gateway_pb2_grpc.GatewayServiceStub(channel)
            list(stub.Generate(greedy(1), timeout=CALL_TIMEOUT_S, wait_for_ready=True))
        assert len(_connected_to(project, PREDICTOR_PORT)) == 2
    finally:
        project.scale("predictor", 1)


def _connected_to(project: Project, port: int) -> set[str]:
    """Addresses to which the gateway's container holds connections."""
    lines = project.execute("gateway", "cat", "/proc/net/tcp").splitlines()[1:]
    remotes = [line.split()[2].split(":") for line in lines if line.split()[3] == ESTABLISHED]
    return {address for address, remote_port in remotes if int(remote_port, 16) == port}


def test_only_the_gateway_is_reachable_from_outside(project: Project) -> None:
    published = {
        name: {
            port: bindings
            for port, bindings in project.inspect(name)["NetworkSettings"]["Ports"].items()
            if bindings
        }
        for name in SERVICES
    }
    assert published["engine"] == published["predictor"] == {}
    assert {binding["HostIp"] for binding in published["gateway"]["50051/tcp"]} == {"127.0.0.1"}
    network = json.loads(run(["docker", "network", "inspect", f"{project.name}_internal"]))[0]
    assert network["Internal"] is True
    for name in ("engine", "predictor"):
        networks = project.inspect(name)["NetworkSettings"]["Networks"]
        assert set(networks) == {f"{project.name}_internal"}


@pytest.mark.parametrize("name", SERVICES)
def test_process_is_not_root_and_has_no_capabilities(project: Project, name: str) -> None:
    lines = project.execute(name, "cat", "/proc/1/status").splitlines()
    status = {key: value.split() for key, _, value in (line.partition(":") for line in lines)}
    assert set(status["Uid"]) == {"10001"}
    assert status["NoNewPrivs"] == ["1"]
    assert int(status["CapEff"][0], 16) == int(status["CapBnd"][0], 16) == 0


@pytest.mark.parametrize("name", SERVICES)
def test_root_file_system_is_read_only(project: Project, name: str) -> None:
    with pytest.raises(CommandError, match="Read-only file system"):
        project.execute(name, "touch", "/opt/venv/probe")
    project.execute(name, "touch", "/tmp/probe")  # noqa: S108 - inside the container


@pytest.mark.parametrize("name", SERVICES)
def test_image_tells_nothing_of_the_machine_that_built_it(project: Project, name: str) -> None:
    image = project.inspect(name)["Image"]
    history = run(["docker", "history", "--no-trunc", "--format", "{{.CreatedBy}}", image])
    config = run(["docker", "image", "inspect", "--format", "{{json .Config}}", image])
    for word in ("PIP_", "_TOKEN=", "SECRET", "PASSWORD", *machine_pip_settings()):
        assert word not in history + config
    project.execute(name, "test", "!", "-e", "/etc/pip.conf")


@pytest.mark.parametrize("name", ["gateway", "predictor"])
def test_images_without_need_of_pytorch_have_none(project: Project, name: str) -> None:
    find = "import importlib.util; print(importlib.util.find_spec('torch'))"
    assert project.execute(name, "python", "-c", find).strip() == "None"


def test_stopping_lets_a_running_answer_finish(
    project: Project, gateway: gateway_pb2_grpc.GatewayServiceStub
) -> None:
    events = gateway.Generate(greedy(64), timeout=CALL_TIMEOUT_S, wait_for_ready=True)
    kinds = [next(events).WhichOneof("event") for _ in range(3)]
    assert kinds == ["queued", "started", "delta"]
    container = project.inspect("gateway")["Id"]
    with subprocess.Popen(["docker", "stop", "--time", "60", container]) as stop:
        rest = list(events)
        assert rest[-1].finished.usage.output_tokens == 64
        assert stop.wait(timeout=60) == 0
    assert project.inspect("gateway")["State"]["ExitCode"] == 0
    project.compose("start", "gateway")
    project.wait_healthy()


def test_services_end_by_themselves_on_sigterm_and_start_again(project: Project) -> None:
    project.compose("stop", timeout_s=120)
    assert [project.inspect(name)["State"]["ExitCode"] for name in SERVICES] == [0, 0, 0]
    project.compose("start")
    project.wait_healthy()
