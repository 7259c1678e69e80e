from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from ssjf_bench.replay import Record
from ssjf_cli import demo_report
from ssjf_cli.demo_report import DemoSettings, Results
from tests.ssjf_bench.records import failed, finished


def results(**replaced: list[Record]) -> Results:
    """Three burst passes and two streams; mean JCT 10, 7, 6 s, and 5, 4 s."""
    means_s = {
        ("burst", "fcfs"): 10.0,
        ("burst", "ssjf"): 7.0,
        ("burst", "oracle"): 6.0,
        ("poisson", "fcfs"): 5.0,
        ("poisson", "ssjf"): 4.0,
    }
    made = Results(DemoSettings(), capacity_per_s=0.5)
    for (arrivals, policy), mean_s in means_s.items():
        made.records[arrivals, policy] = replaced.get(
            f"{arrivals}_{policy}",
            [
                finished("a", tokens_s=(mean_s - 1,) * 2, predicted=4.0),
                finished("b", tokens_s=(mean_s + 1,) * 9, predicted=8.0, by_model=False),
            ],
        )
    return made


def shown(made: Results, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> tuple[str, str]:
    """The table, and what stands beside it."""
    beside = io.StringIO()
    demo_report.show(made, tmp_path, Console(file=beside, width=200))
    return capsys.readouterr().out, beside.getvalue()


def test_the_table_has_a_row_for_each_pass(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, _ = shown(results(), tmp_path, capsys)
    rows = [line.split() for line in table.splitlines() if "burst" in line or "poisson" in line]
    assert [row[:3] for row in rows] == [
        ["burst", "fcfs", "10.0"],
        ["burst", "ssjf", "7.00"],
        ["burst", "oracle", "6.00"],
        ["poisson", "fcfs", "5.00"],
        ["poisson", "ssjf", "4.00"],
    ]


def test_the_table_fits_an_ordinary_terminal(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, _ = shown(results(), tmp_path, capsys)
    assert max(map(len, table.splitlines())) <= 80
    assert "…" not in table


def test_the_table_tells_ranking_priors_and_share(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table, _ = shown(results(), tmp_path, capsys)
    (row,) = [line for line in table.splitlines() if "ssjf" in line and "burst" in line]
    assert row.split()[-3:] == ["1.00", "1/2", "75%"]


def test_answers_that_differ_are_counted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = [finished("a", text="no"), finished("b")]
    _, beside = shown(results(burst_ssjf=other), tmp_path, capsys)
    assert "1 of 2 answers differ in text between policies (numeric ties) a\n" in beside


def test_failed_requests_are_shown(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    broken = results(poisson_fcfs=[failed("a"), finished("b")])
    _, beside = shown(broken, tmp_path, capsys)
    assert "failed: poisson, fcfs: a: UNAVAILABLE NO_ENGINE none\n" in beside


def test_a_plot_and_every_figure_are_written(tmp_path: Path) -> None:
    demo_report.write(results(), tmp_path)
    assert (tmp_path / "demo.png").stat().st_size > 10_000
    data = json.loads((tmp_path / "demo.json").read_text())
    assert data["share_of_oracle_gain"] == pytest.approx(0.75)
    assert data["poisson_requests_per_s"] == pytest.approx(0.65)
    assert [one["policy"] for one in data["passes"]] == ["fcfs", "ssjf", "oracle", "fcfs", "ssjf"]


def test_a_pass_in_which_nothing_finished_does_not_break_the_report(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = results(burst_oracle=[failed("a")], poisson_ssjf=[failed("a")])
    demo_report.write(broken, tmp_path)
    table, _ = shown(broken, tmp_path, capsys)
    assert "–" in table


@pytest.mark.parametrize(("tokens", "warned"), [(20, False), (40, True)])
def test_a_machine_that_was_not_equally_fast_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], tokens: int, warned: bool
) -> None:
    made = results(
        burst_fcfs=[finished("a", tokens_s=(10.0,) * 20)],
        burst_ssjf=[finished("a", tokens_s=(10.0,) * tokens)],
        burst_oracle=[finished("a", tokens_s=(10.0,) * 21)],
    )
    _, beside = shown(made, tmp_path, capsys)
    assert ("The bursts ran at 2 to 4 tokens/s" in beside) is warned
