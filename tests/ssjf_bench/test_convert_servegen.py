"""Clients of our own making in ServeGen's form."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from ssjf_bench.convert_servegen import Wanted, sample
from ssjf_bench.trace import TraceError

RATE_PER_S = 2.0
WINDOWS = (0, 600, 1200, 1800)
LENGTHS = {
    "0": {"input_tokens": "{10: 0.5, 20: 0.5}", "output_tokens": "{7: 1.0}"},
    "900": {"input_tokens": "{}", "output_tokens": "{}"},
    "1200": {"input_tokens": "{10: 1.0}", "output_tokens": "{100: 1.0}"},
}


def client(
    folder: Path, number: int, pattern: str = "Gamma", shape: float = 1.0, rate: float = RATE_PER_S
) -> None:
    lines = [f"{start},{rate},1.0,{pattern},{shape},0.5" for start in WINDOWS]
    (folder / f"chunk-{number}-trace.csv").write_text("\n".join([*lines, "2400,0,0,,0,0\n"]))
    (folder / f"chunk-{number}-dataset.json").write_text(json.dumps(LENGTHS))


def refusal(folder: Path, wanted: Wanted | None = None) -> str:
    with pytest.raises(TraceError) as caught:
        sample(folder, wanted or Wanted(100, 0))
    return str(caught.value)


def test_every_client_comes_at_its_own_rate(tmp_path: Path) -> None:
    client(tmp_path, 0)
    client(tmp_path, 3, rate=0.5)
    found = sample(tmp_path, Wanted(1500, start_s=0))  # of 600 s
    times_s = np.array([arrival.time_us for arrival in found]) / 1e6
    assert times_s[0] >= 0
    assert times_s[-1] < 600
    assert list(times_s) == sorted(times_s)
    assert len(sample(tmp_path, Wanted(6000, start_s=0))) == 4 * 600 * 2.5


def test_the_first_requests_stay_when_more_are_drawn(tmp_path: Path) -> None:
    client(tmp_path, 0)
    assert sample(tmp_path, Wanted(2400, 0))[:1000] == sample(tmp_path, Wanted(1000, 0))


def test_another_seed_is_another_draw(tmp_path: Path) -> None:
    client(tmp_path, 0)
    first, again, other = (sample(tmp_path, Wanted(500, 0, seed)) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_lengths_are_those_of_the_latest_histograms_that_are_not_empty(tmp_path: Path) -> None:
    client(tmp_path, 0)
    found = sample(tmp_path, Wanted(4800, 0))
    early = [each for each in found if each.time_us < 1200e6]
    late = [each for each in found if each.time_us >= 1200e6]
    assert {each.output_tokens for each in early} == {7}
    assert {each.output_tokens for each in late} == {100}
    tens = sum(each.input_tokens == 10 for each in early) / len(early)
    assert tens == pytest.approx(0.5, abs=0.05)


@pytest.mark.parametrize(("pattern", "shape", "cv"), [("Gamma", 0.1, 3.16), ("Weibull", 1.0, 1.0)])
def test_gaps_have_the_shape_that_is_published(
    tmp_path: Path, pattern: str, shape: float, cv: float
) -> None:
    client(tmp_path, 0, pattern, shape, rate=20)
    times_us = np.array([each.time_us for each in sample(tmp_path, Wanted(40_000, 0))])
    gaps = np.diff(times_us)
    assert gaps.std() / gaps.mean() == pytest.approx(cv, rel=0.1)


def test_bursts_of_clients_do_not_meet_where_a_window_begins(tmp_path: Path) -> None:
    for number in range(40):
        client(tmp_path, number, shape=0.02, rate=0.1)
    times_s = np.array([each.time_us for each in sample(tmp_path, Wanted(9000, 0))]) / 1e6 % 600
    assert np.histogram(times_s, bins=20, range=(0, 600))[0][0] < 3 * len(times_s) / 20


def test_too_few_requests_are_said(tmp_path: Path) -> None:
    client(tmp_path, 0)
    assert "1200 requests from 1800 s on, no more" in refusal(tmp_path, Wanted(2000, 1800))


def test_what_is_wrong_with_a_client_is_said_with_its_place(tmp_path: Path) -> None:
    assert "no file named chunk-N-trace.csv" in refusal(tmp_path)
    client(tmp_path, 4)
    trace, lengths = (tmp_path / f"chunk-4-{name}" for name in ("trace.csv", "dataset.json"))
    trace.write_text("0,1,1,Gamma,1,1\n600,1,1,Zipf,1,1\n")
    assert "chunk-4-trace.csv:2: unknown pattern 'Zipf'" in refusal(tmp_path)
    trace.write_text("0,1,1,Gamma,1,1\n600,nan,1,Gamma,1,1\n")
    assert "chunk-4-trace.csv:2: " in refusal(tmp_path)
    trace.write_text("0,1,1\n")
    assert "chunk-4-trace.csv:1: " in refusal(tmp_path)
    client(tmp_path, 4)
    for broken in ("{", "[]", '{"0": {}}', '{"0": {"input_tokens": "{1: -1}"}}', "{}"):
        lengths.write_text(broken)
        assert "chunk-4-dataset.json: no histogram" in refusal(tmp_path)
    lengths.unlink()
    assert "chunk-4-dataset.json: " in refusal(tmp_path)


def test_a_histogram_is_no_code(tmp_path: Path) -> None:
    client(tmp_path, 0)
    entry = {"input_tokens": "open('x')", "output_tokens": "{1: 1.0}"}
    (tmp_path / "chunk-0-dataset.json").write_text(json.dumps({"0": entry}))
    assert "no histograms" in refusal(tmp_path)
