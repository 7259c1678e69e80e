"""`ssjf bench sweep` and `convert-trace`, as a user calls them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ssjf_cli.bench import app

SMALL = (
    *("--batch", "1", "--batch", "4", "--dynamic", "4", "--load", "0.9", "--tau", "0.7"),
    *("--seeds", "2", "--jobs", "60", "--workers", "1"),
)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A folder with `lengths.jsonl` and `trace.csv`."""
    lines = [
        {"prompt": f"say {n}", "response_samples": [2 + n * n % 97], "split": "test" if n else "x"}
        for n in range(80)
    ]
    content = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "lengths.jsonl").write_text(content, encoding="utf-8")
    rows = [f"{n * 0.7},{n + 1},{n % 40 + 2}" for n in range(100)]
    header = "arrival_s,input_tokens,output_tokens"
    (tmp_path / "trace.csv").write_text("\n".join([header, *rows]), encoding="utf-8")
    return tmp_path


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [*map(str, arguments)])


def refusal(*arguments: str | Path) -> str:
    result = run(*arguments)
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


def test_a_sweep_writes_rows_and_plots_and_prints_a_line_a_cell(data: Path, tmp_path: Path) -> None:
    out, plots = tmp_path / "sweep.json", tmp_path / "plots"
    arrivals = ("--arrivals", data / "trace.csv", "--arrivals", "gamma:1", "--arrivals", "gamma:3")
    files = ("--lengths", data / "lengths.jsonl", "--split", "test", "--panel", "trace")
    result = run("sweep", "--json", out, "--plots", plots, *arrivals, *files, *SMALL)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {row["arrivals"] for row in found["averages"]} == {"trace", "gamma:1", "gamma:3"}
    assert {row["mode"] for row in found["averages"]} == {"none", "dynamic", "continuous"}
    assert found["simulations"] == 3 * 3 * 2 * 7
    assert {"hardware", "commit", "command", "wall_s", "workers"} <= found.keys()
    names = {f"sweep-{name}.png" for name in ("gain", "share", "p99", "burstiness")}
    assert {path.name for path in plots.iterdir()} == names
    assert len([line for line in result.stdout.splitlines() if "dynamic 4" in line]) == 3


def test_a_sweep_on_the_traces_own_lengths(data: Path, tmp_path: Path) -> None:
    out = tmp_path / "sweep.json"
    arrivals = ("--arrivals", data / "trace.csv", "--own-lengths")
    result = run("sweep", "--json", out, *arrivals, *SMALL)
    assert result.exit_code == 0, result.output
    assert "tail-ssjf" in result.stdout


def test_what_cannot_be_swept_is_one_line(data: Path, tmp_path: Path) -> None:
    start = ("sweep", "--json", tmp_path / "x.json", *SMALL)
    trace = ("--arrivals", data / "trace.csv")
    lengths = ("--lengths", data / "lengths.jsonl")
    assert "--own-lengths is wanted" in refusal(*start, *trace)
    assert "--own-lengths is wanted" in refusal(*start, *trace, *lengths, "--own-lengths")
    assert "lengths are needed" in refusal(*start, "--arrivals", "poisson", "--own-lengths")
    assert "two have the same name" in refusal(*start, *trace, *trace, *lengths)
    assert "--panel 'code'" in refusal(*start, *trace, *lengths, "--panel", "code")
    assert "no row with a length" in refusal(*start, *trace, *lengths, "--split", "dev")
    assert "no row with a length" in refusal(*start, *trace, *lengths, "--llm", "none")
    assert "no manifest" in refusal(*start, *trace, *lengths, "--predictor", tmp_path).replace(
        "model.json", "manifest"
    )


def test_published_traces_are_converted(tmp_path: Path) -> None:
    source = tmp_path / "trace.jsonl"
    entries = [{"timestamp": 40 * n, "input_length": n, "output_length": 2} for n in range(3)]
    source.write_text("".join(json.dumps(entry) + "\n" for entry in entries), encoding="utf-8")
    out = tmp_path / "trace.csv"
    result = run("convert-trace", "--from", "mooncake", "--out", out, source)
    assert result.exit_code == 0, result.output
    assert out.read_text(encoding="utf-8").splitlines()[1:] == [
        "0.000,0,2",
        "0.040,1,2",
        "0.080,2,2",
    ]
    assert "3 requests" in result.stderr


def test_clients_are_sampled(tmp_path: Path) -> None:
    (tmp_path / "chunk-0-trace.csv").write_text("0,1,1,Gamma,1,1\n600,1,1,Gamma,1,1\n")
    lengths = {"0": {"input_tokens": "{5: 1.0}", "output_tokens": "{7: 1.0}"}}
    (tmp_path / "chunk-0-dataset.json").write_text(json.dumps(lengths))
    drawn = ("--requests", "100", "--start-s", "0", "--seed", "3")
    out = tmp_path / "trace.csv"
    result = run("convert-trace", "--from", "servegen", "--out", out, *drawn, tmp_path)
    assert result.exit_code == 0, result.output
    rows = out.read_text(encoding="utf-8").splitlines()[1:]
    assert len(rows) == 100
    assert all(row.endswith(",5,7") for row in rows)


def test_what_cannot_be_converted_is_one_line(tmp_path: Path) -> None:
    source = tmp_path / "trace.jsonl"
    source.write_text('{"timestamp": 0}\n', encoding="utf-8")
    start = ("convert-trace", "--out", tmp_path / "out.csv", "--from")
    assert "trace.jsonl:1: no 'input_length'" in refusal(*start, "mooncake", source)
    assert "one folder" in refusal(*start, "servegen", source)
    assert "no file named chunk-N-trace.csv" in refusal(*start, "servegen", tmp_path)
    missing = ("convert-trace", "--out", tmp_path / "no" / "out.csv", "--from", "mooncake")
    assert "there is no folder" in refusal(*missing, source)
    assert not (tmp_path / "out.csv").exists()


def test_published_predictions_are_joined(tmp_path: Path) -> None:
    source, out = tmp_path / "a.csv", tmp_path / "out.csv"
    source.write_text(",output_token_length,predicted_length\n0,40,1\n", encoding="utf-8")
    result = run("convert-predictions", "--out", out, f"binary={source}", f"multi5={source}")
    assert result.exit_code == 0, result.output
    assert out.read_text(encoding="utf-8") == "output_tokens,pred_binary,pred_multi5\n40,1,1\n"
    start = ("convert-predictions", "--out", out)
    assert "NAME=FILE wanted" in refusal(*start, source)
    assert "NAME=FILE wanted" in refusal(*start, f"a={source}", f"a={source}")
    assert "missing.csv" in refusal(*start, f"a={tmp_path / 'missing.csv'}")
