"""The rules of docs/architecture.md, read off the syntax trees."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
SERVICES = ("gateway_svc", "predictor_svc", "engine_svc")
PACKAGES = (*SERVICES, "ssjf_cli", "ssjf_bench")
STUBS = ("_pb2", "_pb2_grpc")

# Pure cores: modules and whole packages.
PURE = (
    *("gateway_svc/scheduling", "gateway_svc/limits.py", "gateway_svc/prior.py"),
    *("gateway_svc/quality.py", "gateway_svc/throughput.py"),
    *("gateway_svc/tally.py", "gateway_svc/waits.py"),
    *("predictor_svc/encoder.py", "predictor_svc/layouts.py"),
    "predictor_svc/llm_names.py",
    *("predictor_svc/batcher.py", "predictor_svc/lengths.py"),
    *("engine_svc/scheduler.py", "engine_svc/step.py", "engine_svc/sequence.py"),
    *("engine_svc/blocks.py", "engine_svc/prefix.py"),
    *("engine_svc/answers.py", "engine_svc/stop_strings.py", "engine_svc/detokenizer.py"),
    *("engine_svc/messages.py", "engine_svc/batching_mode.py", "engine_svc/mailbox.py"),
)
IMPURE_IMPORTS = (
    *("grpc", "google.protobuf", "torch", "onnxruntime", "transformers"),
    *("ssjf.engine", "ssjf.gateway", "ssjf.predictor", "ssjf.wire.server", "ssjf.wire.channel"),
)

FORBIDDEN_NAMES = {"utils", "util", "common", "helpers", "helper", "misc", "base", "manager"}
MAX_LINES = {True: 400, False: 350}  # tests, and all else


@dataclass(frozen=True, slots=True)
class Import:
    """One imported module, as it is written: dotted name and line."""

    name: str
    line: int

    def is_of(self, package: str) -> bool:
        return self.name == package or self.name.startswith(f"{package}.")


def sources(folder: str) -> list[Path]:
    """The hand-written modules under a folder of the repository, or the one module."""
    start = ROOT / folder
    found = [start] if start.is_file() else sorted(start.rglob("*.py"))
    return [path for path in found if not path.stem.endswith(STUBS)]


def imports(path: Path) -> Iterator[Import]:
    """Everything that a module imports, inside functions and for type checking too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (Import(alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            yield from (Import(f"{module}.{alias.name}", node.lineno) for alias in node.names)


def offences(folder: str, *forbidden: str) -> list[str]:
    return [
        f"{path.relative_to(ROOT)}:{found.line} imports {found.name}"
        for path in sources(folder)
        for found in imports(path)
        if any(found.is_of(package) for package in forbidden)
    ]


def all_sources() -> list[Path]:
    return [
        path for folder in (*PACKAGES, "protos/ssjf", "tests", "tools") for path in sources(folder)
    ]


def test_the_rules_have_something_to_check() -> None:
    assert all(len(sources(folder)) > 3 for folder in (*PACKAGES, "protos/ssjf", "tests"))


def test_every_pure_core_exists() -> None:
    assert [name for name in PURE if not sources(name)] == []


@pytest.mark.parametrize("service", SERVICES)
def test_services_do_not_import_one_another_nor_the_command(service: str) -> None:
    others = [name for name in PACKAGES if name != service]
    assert offences(service, *others) == []


def test_the_shared_package_imports_no_service() -> None:
    assert offences("protos/ssjf", *PACKAGES) == []


def test_benchmarks_are_a_client_like_any_other() -> None:
    # The scheduling core is the exception: the simulator runs the live gateway's.
    impure = ("engine_svc", "predictor_svc", "ssjf_cli")
    live = [f"gateway_svc.{path.stem}" for path in (ROOT / "gateway_svc").glob("*.py")]
    assert offences("ssjf_bench", *impure, *live) == []


def test_the_command_starts_services_as_processes_and_imports_them_only_for_models() -> None:
    found = offences("ssjf_cli", *SERVICES)
    # What trains or measures a model without its service.
    makers = (
        ("ssjf_cli/predictor", " imports predictor_svc."),
        ("ssjf_cli/engine_", " imports engine_svc."),
    )
    allowed = [
        one for one in found for start, what in makers if one.startswith(start) and what in one
    ]
    assert [one for one in found if one not in allowed] == []


@pytest.mark.parametrize("core", PURE)
def test_pure_cores_import_neither_grpc_nor_frameworks_nor_stubs(core: str) -> None:
    assert offences(core, *IMPURE_IMPORTS) == []


def test_an_import_that_breaks_a_rule_would_be_noticed(tmp_path: Path) -> None:
    module = tmp_path / "module.py"
    module.write_text("def f():\n    from torch.nn import Linear\n    import grpc.aio\n")
    found = list(imports(module))
    assert [one.line for one in found] == [2, 3]
    assert found[0].is_of("torch")
    assert found[1].is_of("grpc")
    assert not found[1].is_of("grpc_health")


def test_nothing_has_a_name_that_says_nothing() -> None:
    named = [
        path.relative_to(ROOT)
        for path in all_sources()
        if FORBIDDEN_NAMES & {*path.stem.lower().split("_"), path.parent.name.lower()}
    ]
    assert named == []


def test_modules_stay_short() -> None:
    long = {
        str(path.relative_to(ROOT)): count
        for path in all_sources()
        if (count := len(path.read_text(encoding="utf-8").splitlines()))
        > MAX_LINES["tests" in path.parts]
    }
    assert long == {}


def test_every_module_says_what_it_owns() -> None:
    silent = [
        path.relative_to(ROOT)
        for folder in (*PACKAGES, "protos/ssjf", "tools")
        for path in sources(folder)
        if path.stat().st_size and not ast.get_docstring(ast.parse(path.read_text("utf-8")))
    ]
    assert silent == []


def test_the_committed_stubs_are_fresh() -> None:
    result = subprocess.run(
        [sys.executable, "tools/protos.py", "--check"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
