"""`ssjf bench sim` and `frontier`, as a user calls them."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from ssjf_cli.bench import app

KEYS = {
    *("jobs", "mean_jct_s", "p50_jct_s", "p99_jct_s", "max_wait_s", "mean_ttft_s"),
    *("throughput_requests_s", "throughput_tokens_s", "bound_violations"),
    *("hardware", "versions", "commit", "command"),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `lengths.jsonl.gz` and `trace.csv`."""
    folder = tmp_path_factory.mktemp("data")
    draw = random.Random(1)
    samples = [[draw.randint(2, 400), 9999] for _ in range(200)]
    lines = [
        json.dumps({"prompt": f"say {number}", "response_samples": each})
        for number, each in enumerate(samples)
    ]
    (folder / "lengths.jsonl.gz").write_bytes(gzip.compress("\n".join(lines).encode()))
    trace = [f"{number * 0.7},{number + 1},{number + 2}" for number in range(100)]
    header = "arrival_s,input_tokens,output_tokens"
    (folder / "trace.csv").write_text("\n".join([header, *trace]), encoding="utf-8")
    return folder


def run(command: str, *arguments: str | Path) -> Result:
    return CliRunner().invoke(app, [command, *map(str, arguments)])


def simulated(tmp_path: Path, *arguments: str | Path) -> dict[str, object]:
    out = tmp_path / "out.json"
    result = run("sim", "--json", out, *arguments)
    assert result.exit_code == 0, result.output
    found: dict[str, object] = json.loads(out.read_text(encoding="utf-8"))
    return found


def refusal(*arguments: str | Path) -> str:
    result = run("sim", *arguments)
    assert result.exit_code == 1, result.output
    return " ".join(result.stderr.split())


def test_poisson_arrivals_with_lengths_of_a_file(data: Path, tmp_path: Path) -> None:
    found = simulated(tmp_path, "--lengths", data / "lengths.jsonl.gz", "--jobs", "400")
    assert found.keys() >= KEYS
    assert found["jobs"] == 400
    assert found["bound_violations"] == 0
    assert found["kendall_tau_b"] == pytest.approx(0.6, abs=0.01)


def test_a_trace_with_lengths_of_its_own(data: Path, tmp_path: Path) -> None:
    found = simulated(tmp_path, "--arrivals", data / "trace.csv", "--noise-sigma", "0")
    assert found["jobs"] == 100
    assert found["kendall_tau_b"] == pytest.approx(1)


def test_the_first_sample_of_a_row_is_its_length(data: Path, tmp_path: Path) -> None:
    lengths = data / "lengths.jsonl.gz"
    found = simulated(tmp_path, "--lengths", lengths, "--jobs", "200", "--load", "0.01")
    assert isinstance(found["max_jct_s"], float)
    assert found["max_jct_s"] < 9999 * 0.0065


def test_long_rows_are_left_out_where_asked_for(data: Path, tmp_path: Path) -> None:
    lengths = ("--lengths", data / "lengths.jsonl.gz", "--jobs", "100", "--load", "0.01")
    all_of_them = simulated(tmp_path, *lengths)["max_jct_s"]
    short_ones = simulated(tmp_path, *lengths, "--longest", "50")["max_jct_s"]
    assert isinstance(all_of_them, float)
    assert isinstance(short_ones, float)
    assert short_ones < all_of_them / 3


@pytest.mark.parametrize("mode", ["none", "dynamic", "continuous"])
def test_every_mode_runs_every_job(data: Path, tmp_path: Path, mode: str) -> None:
    found = simulated(tmp_path, "--arrivals", data / "trace.csv", "--mode", mode)
    assert (found["jobs"], found["mode"]) == (100, mode)
    assert found["max_batch"] == (1 if mode == "none" else 16)


def test_prompts_as_long_as_the_trace_says_take_their_prefill(data: Path, tmp_path: Path) -> None:
    trace = ("--arrivals", data / "trace.csv", "--prefill-token-ms", "5", "--load", "0.1")
    short = simulated(tmp_path, *trace)["mean_ttft_s"]
    long = simulated(tmp_path, *trace, "--input-lengths")["mean_ttft_s"]
    assert isinstance(short, float)
    assert isinstance(long, float)
    assert long > 10 * short


def test_what_cannot_be_run_is_one_line(data: Path, tmp_path: Path) -> None:
    out = ("--json", tmp_path / "x")
    trace = ("--arrivals", data / "trace.csv")
    assert "lengths are needed" in refusal(*out)
    assert "neither poisson" in refusal(*out, "--arrivals", "daily")
    assert "the trace has 100" in refusal(*out, *trace, "--jobs", "101")
    assert "unknown policy 'lifo'" in refusal(*out, *trace, "--policy", "lifo")
    assert "--predictor needs prompts" in refusal(*out, *trace, "--predictor", tmp_path)
    assert "no folder" in refusal("--json", tmp_path / "no" / "x", *trace)
    assert "missing.jsonl" in refusal(*out, "--lengths", tmp_path / "missing.jsonl")
    assert "no manifest" in refusal(
        *out, "--lengths", data / "lengths.jsonl.gz", "--predictor", tmp_path
    ).replace("model.json", "manifest")


def test_the_frontier_writes_its_rows_and_a_plot_for_each_tau(data: Path, tmp_path: Path) -> None:
    out, plots = tmp_path / "frontier.json", tmp_path / "plots"
    grid = ("--batch", "4", "--load", "0.9", "--tau", "0.7", "--jobs", "60")
    files = ("--arrivals", data / "trace.csv", "--lengths", data / "lengths.jsonl.gz")
    result = run("frontier", "--json", out, "--plots", plots, *files, *grid)
    assert result.exit_code == 0, result.output
    found = json.loads(out.read_text(encoding="utf-8"))
    assert {row["arrivals"] for row in found["averages"]} == {"trace"}
    assert {"fcfs", "oracle", "hrrn", "tail-ssjf 1.2"} <= {
        row["label"] for row in found["averages"]
    }
    assert [path.name for path in plots.iterdir()] == ["frontier-tau-0.70.png"]
    assert "bounded-ssjf 1.3" in result.stdout
