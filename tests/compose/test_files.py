"""The Compose files as text: what is published, how containers are confined, what GPUs get."""

from __future__ import annotations

from typing import Any

import pytest
import yaml

from tests.compose.project import ROOT, SERVICES, run

CPU_FILE = "docker-compose.yml"
GPU_FILE = "docker-compose.gpu.yml"


@pytest.fixture
def merged(compose: tuple[str, ...]) -> Any:
    """CPU file and GPU overlay together, as Compose reads them."""
    return yaml.safe_load(run([*compose, "-f", CPU_FILE, "-f", GPU_FILE, "config"]))


def services(name: str) -> Any:
    """The services of one file, as YAML."""
    return yaml.safe_load((ROOT / name).read_text())["services"]


def test_only_the_gateway_publishes_a_port_and_on_loopback() -> None:
    published = {name: spec.get("ports", []) for name, spec in services(CPU_FILE).items()}
    assert published["engine"] == published["predictor"] == []
    assert published["gateway"] == ["${SSJF_PUBLISH_ADDRESS:-127.0.0.1}:${SSJF_PORT:-50051}:50051"]


@pytest.mark.parametrize("name", SERVICES)
def test_containers_have_no_privileges_and_a_read_only_root(name: str) -> None:
    spec = services(CPU_FILE)[name]
    assert spec["read_only"] is True
    assert spec["cap_drop"] == ["ALL"]
    assert spec["security_opt"] == ["no-new-privileges:true"]


def test_gateway_starts_when_the_others_are_healthy() -> None:
    assert services(CPU_FILE)["gateway"]["depends_on"] == {
        "predictor": {"condition": "service_healthy"},
        "engine": {"condition": "service_healthy"},
    }


@pytest.mark.parametrize("name", ["predictor", "engine"])
def test_gpu_overlay_reserves_a_gpu(name: str) -> None:
    [device] = services(GPU_FILE)[name]["deploy"]["resources"]["reservations"]["devices"]
    assert device == {"driver": "nvidia", "count": 1, "capabilities": ["gpu"]}


def test_compose_accepts_the_cpu_file(compose: tuple[str, ...]) -> None:
    config = yaml.safe_load(run([*compose, "-f", CPU_FILE, "config"]))
    assert set(config["services"]) == set(SERVICES)


def test_gpu_overlay_builds_and_runs_for_cuda(merged: Any) -> None:
    engine, predictor = merged["services"]["engine"], merged["services"]["predictor"]
    assert predictor["build"]["args"]["RUNTIME"] == "gpu"
    assert predictor["environment"]["SSJF_PREDICTOR_PROVIDER"] == "cuda"
    assert engine["build"]["args"]["TORCH_INDEX"] == ""
    assert engine["environment"]["SSJF_ENGINE_DEVICE"] == "cuda"
    for service in (engine, predictor):
        assert service["deploy"]["resources"]["reservations"]["devices"][0]["driver"] == "nvidia"


def test_gpu_overlay_keeps_what_the_cpu_file_confines(merged: Any) -> None:
    for name in SERVICES:
        assert merged["services"][name]["read_only"] is True
    assert "ports" not in merged["services"]["engine"]
    assert "ports" not in merged["services"]["predictor"]
