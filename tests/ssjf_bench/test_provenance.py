from __future__ import annotations

import importlib
import json
import platform
import shutil
import subprocess
from pathlib import Path

import pytest

import ssjf_bench
from ssjf_bench import provenance


@pytest.fixture
def installed_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The package in a folder that no checkout tracks."""
    monkeypatch.setattr(ssjf_bench, "__file__", str(tmp_path / "__init__.py"))
    monkeypatch.delenv(provenance.COMMIT_VARIABLE, raising=False)
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=a", "-c", "user.email=a@example.org"]
    command = ["git", "-C", str(folder), *author, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_it_is_plain_data_with_the_command_and_the_versions() -> None:
    found = json.loads(json.dumps(provenance.provenance(["ssjf", "bench"])))
    assert found["command"] == ["ssjf", "bench"]
    assert found["versions"]["python"] == platform.python_version()
    assert found["versions"]["grpcio"] == importlib.import_module("grpc").__version__
    assert found["hardware"]["cores"] >= 1
    assert found["hardware"]["memory_gib"] > 0
    assert found["hardware"]["cpu"]


@pytest.mark.skipif(shutil.which("git") is None, reason="needs git")
def test_a_checkout_is_named_by_its_commit_and_what_differs(installed_elsewhere: Path) -> None:
    module = installed_elsewhere / "__init__.py"
    module.write_text("")
    git(installed_elsewhere, "init", "--quiet")
    git(installed_elsewhere, "add", "__init__.py")
    git(installed_elsewhere, "commit", "--quiet", "--message", "first")
    clean = provenance.provenance([])
    assert clean["commit"] == git(installed_elsewhere, "rev-parse", "HEAD")
    assert clean["uncommitted_changes"] == []
    module.write_text("changed = True\n")
    assert provenance.provenance([])["uncommitted_changes"] == ["__init__.py"]


def test_without_a_checkout_there_is_no_commit(installed_elsewhere: Path) -> None:
    assert provenance.provenance([])["commit"] is None


def test_without_a_checkout_the_environment_may_name_it(
    installed_elsewhere: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(provenance.COMMIT_VARIABLE, "abc123")
    assert provenance.provenance([])["commit"] == "abc123"


def test_a_machine_without_gpus_lists_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    assert provenance.hardware()["gpus"] == []


@pytest.mark.parametrize("folder", ["/srv/data", "/srv/data/"])
def test_the_folder_of_data_is_named_by_its_variable(
    monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("SSJF_DATA", folder)
    command = ["ssjf", "bench", "/srv/data/traces/a.csv", "--lengths=/srv/data/b", "/srv/database"]
    typed = ["ssjf", "bench", "$SSJF_DATA/traces/a.csv", "--lengths=$SSJF_DATA/b", "/srv/database"]
    assert provenance.provenance(command)["command"] == typed
