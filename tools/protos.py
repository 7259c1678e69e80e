"""Generates the Python stubs of `protos/`, or checks that the committed ones are fresh.

Called by `make protos` and `make protos-check`. The stubs are compared byte for
byte, so the generators' versions are pinned exactly in pyproject.toml.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from importlib import resources
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"


def generate(out: Path) -> None:
    """Writes the stubs of every .proto file under `out`."""
    includes = [f"-I{PROTOS}", f"-I{resources.files('grpc_tools') / '_proto'}"]
    outputs = [f"--{kind}_out={out}" for kind in ("python", "grpc_python", "mypy", "mypy_grpc")]
    # The plugins' scripts lie beside this interpreter, which need not be on the PATH.
    scripts = Path(sys.executable).parent
    plugins = [
        f"--plugin=protoc-gen-{kind}={scripts / f'protoc-gen-{kind}'}"
        for kind in ("mypy", "mypy_grpc")
    ]
    sources = [str(path) for path in sorted(PROTOS.rglob("*.proto"))]
    if protoc.main(["protoc", *includes, *plugins, *outputs, *sources]) != 0:
        sys.exit("protos: protoc failed")


def stale(fresh: Path) -> list[str]:
    """Names of committed stubs that differ from those under `fresh`; missing and left-over too."""
    made, kept = stubs(fresh), stubs(PROTOS)
    return sorted(
        str(name) for name in made.keys() | kept.keys() if made.get(name) != kept.get(name)
    )


def stubs(root: Path) -> dict[Path, bytes]:
    """The stubs under `root`: name relative to it, and content."""
    found = (path for pattern in ("*_pb2*.py", "*_pb2*.pyi") for path in root.rglob(pattern))
    return {path.relative_to(root): path.read_bytes() for path in found}


def main() -> None:
    """Generates in place, or with --check compares and exits 1 where they differ."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="compare instead of writing")
    if not parser.parse_args().check:
        generate(PROTOS)
        return
    with tempfile.TemporaryDirectory() as folder:
        generate(Path(folder))
        if names := stale(Path(folder)):
            sys.exit("protos: stale stubs, run `make protos`:\n  " + "\n  ".join(names))
    print("protos: stubs are fresh")


if __name__ == "__main__":
    main()
