from __future__ import annotations

import gzip
from pathlib import Path

import pytest

from ssjf_bench.convert_predictions import join, write
from ssjf_bench.trace import TraceError

HEADER = ",output_token_length,predicted_length,latency,model"


def saved(path: Path, *answers: tuple[object, object]) -> Path:
    lines = [f"{n},{tokens},{said},0.01,llm" for n, (tokens, said) in enumerate(answers)]
    path.write_text("\n".join([HEADER, *lines]) + "\n", encoding="utf-8")
    return path


def refusal(**files: Path) -> str:
    with pytest.raises(TraceError) as caught:
        join(files)
    return str(caught.value)


def test_predictors_stand_side_by_side(tmp_path: Path) -> None:
    files = {
        "binary": saved(tmp_path / "b.csv", (40, 0), (300, 1)),
        "multi5": saved(tmp_path / "m.csv", (40, 1), (300, 3)),
    }
    rows = join(files)
    assert rows == [(40, 0, 1), (300, 1, 3)]
    write(list(files), rows, tmp_path / "out.csv.gz")
    content = gzip.decompress((tmp_path / "out.csv.gz").read_bytes()).decode()
    assert content == "output_tokens,pred_binary,pred_multi5\n40,0,1\n300,1,3\n"


def test_files_of_other_answers_are_refused(tmp_path: Path) -> None:
    one = saved(tmp_path / "a.csv", (40, 0), (300, 1))
    other = saved(tmp_path / "b.csv", (40, 0), (301, 1))
    fewer = saved(tmp_path / "c.csv", (40, 0))
    assert "b.csv:3: 301 tokens, but" in refusal(a=one, b=other)
    assert "c.csv: 1 answers, but" in refusal(a=one, c=fewer)


def test_what_is_wrong_is_said_with_its_line(tmp_path: Path) -> None:
    assert "a.csv:2: " in refusal(a=saved(tmp_path / "a.csv", ("many", 0)))
    assert "a.csv:3: " in refusal(a=saved(tmp_path / "a.csv", (1, 0), (2, "x")))
    assert "a.csv: no answers" in refusal(a=saved(tmp_path / "a.csv"))
    (tmp_path / "a.csv").write_text("a,b\n1,2\n")
    assert "a.csv:1: no column output_token_length" in refusal(a=tmp_path / "a.csv")
    assert "none.csv" in refusal(a=tmp_path / "none.csv")


def test_a_table_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="missing"):
        write(["binary"], [(1, 0)], tmp_path / "missing" / "out.csv")
