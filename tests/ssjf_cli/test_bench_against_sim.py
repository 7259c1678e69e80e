"""`ssjf bench against-sim`, as a user calls it."""

from __future__ import annotations

import json
from pathlib import Path
from shutil import copytree

import pytest
from typer.testing import CliRunner, Result

from ssjf_bench import live_records
from ssjf_cli.bench import app
from tests.ssjf_bench.live_runs import header, row, simulated


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["against-sim", *map(str, arguments)])


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("records")
    for policy in ("fcfs", "ssjf"):
        live_records.write(folder, simulated(policy, jobs=150))
    return folder


def test_live_and_simulated_figures_are_written_with_their_records(
    records: Path, tmp_path: Path
) -> None:
    out = tmp_path / "out.json"
    result = run("--records", records, "--json", out, "--plots", tmp_path / "plots")
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert found.keys() >= {"hardware", "commit", "command", "fits", "averages", "left_out"}
    assert [each["policy"] for each in found["results"]] == ["fcfs", "ssjf"]
    files = sorted(records.iterdir())
    assert [each["file"] for each in found["records"]] == [path.name for path in files]
    assert found["records"][0]["sha256"] == live_records.sha256(files[0])
    assert (tmp_path / "plots" / "live-against-sim.png").is_file()
    assert "against fcfs" in result.stdout


def test_policies_that_were_not_run_live_are_simulated_too(records: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    more = ("--what-if", "oracle", "--what-if", "bounded-ssjf:alpha=1.5")
    result = run("--records", records, "--json", out, *more)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))["what_if"]
    assert [each["label"] for each in found] == ["oracle", "bounded-ssjf alpha 1.5"]
    assert found[0]["share_of_oracle_gain"] == 1.0
    assert "not run live" in result.stdout
    assert "bounded-ssjf alpha 1.5" in result.stdout


def test_cells_that_cannot_be_fitted_have_no_what_if(records: Path, tmp_path: Path) -> None:
    out, folder = tmp_path / "out.json", copytree(records, tmp_path / "records")
    live_records.write(folder, simulated("fcfs", max_batch=4, jobs=10))
    result = run("--records", folder, "--json", out, "--what-if", "oracle")
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert [each["max_batch"] for each in found["what_if"]] == [8]
    assert "fewer than 20 answers" in " ".join(found["left_out"])


def test_a_repeat_without_its_fcfs_is_shown_all_the_same(tmp_path: Path) -> None:
    for each in (simulated("fcfs", jobs=150), simulated("ssjf", jobs=150, repeat=2)):
        live_records.write(tmp_path, each)
    result = run("--records", tmp_path, "--json", tmp_path / "out.json")
    assert result.exit_code == 0, result.output
    assert "ssjf" in result.stdout


def test_a_policy_that_there_is_not_is_named(records: Path, tmp_path: Path) -> None:
    result = run("--records", records, "--json", tmp_path / "out.json", "--what-if", "sjf")
    assert result.exit_code == 1
    assert "no policy 'sjf'" in " ".join(result.stderr.split())


def test_a_folder_without_a_valid_run_is_refused(tmp_path: Path) -> None:
    of = header(invalid=["lag"])
    live_records.write(tmp_path, live_records.Run(of, [row(of)]))
    result = run("--records", tmp_path, "--json", tmp_path / "out.json")
    assert result.exit_code == 1
    assert "no valid run" in result.stderr


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.jsonl.gz").write_bytes(b"nothing")
    result = run("--records", tmp_path, "--json", tmp_path / "out.json")
    assert result.exit_code == 1
    assert "broken.jsonl.gz" in " ".join(result.stderr.split()).replace("- ", "-")
