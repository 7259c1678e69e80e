from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ssjf_bench.trace import Trace, TraceError, read_trace, spread_coarse_steps, without_first

GOOD = "arrival_s,input_tokens,output_tokens,source\n0.0,10,5,x\n1.5,20,6,x\n"


def written(tmp_path: Path, content: str, name: str = "trace.csv") -> Path:
    path = tmp_path / name
    if name.endswith(".gz"):
        path.write_bytes(gzip.compress(content.encode()))
    else:
        path.write_text(content, encoding="utf-8")
    return path


@pytest.mark.parametrize("name", ["trace.csv", "trace.csv.gz"])
def test_a_trace_is_read_plain_or_gzipped(tmp_path: Path, name: str) -> None:
    trace = read_trace(written(tmp_path, GOOD, name))
    assert trace.arrivals_s == (0.0, 1.5)
    assert trace.input_tokens == (10, 20)
    assert trace.output_tokens == (5, 6)


def test_an_empty_answer_counts_one_token(tmp_path: Path) -> None:
    trace = read_trace(written(tmp_path, GOOD.replace("1.5,20,6", "1.5,0,0")))
    assert (trace.input_tokens[1], trace.output_tokens[1]) == (1, 1)


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ("arrival_s,input_tokens\n0,1\n", "no column output_tokens"),
        (GOOD.replace("1.5", "soon"), ":3: could not convert"),
        (GOOD.replace("1.5", "nan"), ":3: arrival_s is not a time"),
        (GOOD.replace("20,6", "20"), ":3: "),
        (GOOD.replace("0.0", "2.0"), "does not rise"),
        (GOOD.replace("1.5", "0.0"), "does not rise"),
        (GOOD.splitlines()[0], "fewer than two"),
    ],
)
def test_what_is_wrong_with_a_trace_is_said(tmp_path: Path, content: str, problem: str) -> None:
    with pytest.raises(TraceError, match=problem):
        read_trace(written(tmp_path, content))


def test_a_damaged_file_is_said(tmp_path: Path) -> None:
    path = tmp_path / "trace.csv.gz"
    path.write_bytes(gzip.compress(GOOD.encode())[:30])
    with pytest.raises(TraceError, match=r"trace\.csv\.gz"):
        read_trace(path)


def test_arrivals_of_a_coarse_clock_are_spread_over_its_steps() -> None:
    arrivals_s = [0.0] * 50 + [3.0] * 50 + [9.0] * 50
    spread = spread_coarse_steps(arrivals_s, seed=1)
    assert spread == sorted(spread)
    assert len(set(spread)) == 150
    assert [int(time_s // 3) for time_s in spread] == [0] * 50 + [1] * 50 + [3] * 50


def test_arrivals_of_a_fine_clock_stay() -> None:
    arrivals_s = [0.0, 0.0, 0.25, 0.25, 1.0]
    assert spread_coarse_steps(arrivals_s, seed=1) == arrivals_s


def test_rare_arrivals_at_whole_seconds_stay() -> None:
    arrivals_s = [0.0, 60.0, 120.0, 180.0]
    assert spread_coarse_steps(arrivals_s, seed=1) == arrivals_s


def test_a_later_window_of_a_trace_is_what_follows_its_first_requests() -> None:
    trace = Trace((0.0, 1.0, 2.0, 4.0), (1, 2, 3, 4), (5, 6, 7, 8))
    assert without_first(trace, 2) == Trace((2.0, 4.0), (3, 4), (7, 8))
    with pytest.raises(ValueError, match="4 requests, 3 to leave out"):
        without_first(trace, 3)
