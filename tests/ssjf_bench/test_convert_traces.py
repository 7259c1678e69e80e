"""The published forms, in small files of our own numbers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from ssjf_bench.convert_traces import Arrival, convert, write
from ssjf_bench.trace import TraceError, read_trace

AZURE = (
    "TIMESTAMP,ContextTokens,GeneratedTokens\r\n"
    "2023-11-16 23:59:59.9996000,300,10\r\n"
    "2023-11-17 00:00:01.2500000,20,8\r\n"
)
MOONCAKE = [
    {"timestamp": 3000, "input_length": 6758, "output_length": 500, "hash_ids": [0, 1]},
    {"timestamp": 0, "input_length": 40, "output_length": 4, "hash_ids": [2]},
    {"timestamp": 0, "input_length": 30, "output_length": 4, "hash_ids": [3]},
]


def saved(path: Path, content: str) -> Path:
    path.write_text(content, encoding="utf-8", newline="")
    return path


def mooncake(path: Path, *entries: object) -> Path:
    return saved(path, "".join(json.dumps(entry) + "\n" for entry in entries))


def refusal(form: str, path: Path) -> str:
    with pytest.raises(TraceError) as caught:
        convert(form, [path])
    return str(caught.value)


@pytest.mark.parametrize("name", ["out.csv", "out.csv.gz"])
def test_azure_becomes_a_trace_from_its_first_request_on(tmp_path: Path, name: str) -> None:
    out = tmp_path / name
    write(convert("azure-2023", [saved(tmp_path / "code.csv", AZURE)]), out)
    trace = read_trace(out)
    assert trace.arrivals_s == (0, 1.25)
    assert trace.input_tokens == (300, 20)
    assert trace.output_tokens == (10, 8)


def test_azure_stamps_with_a_time_zone_are_read_in_it(tmp_path: Path) -> None:
    header, row = "TIMESTAMP,ContextTokens,GeneratedTokens", "2024-05-10 01:00:00.5"
    path = saved(tmp_path / "a.csv", f"{header}\n{row}+00:00,1,1\n{row}+02:00,2,2\n{row},3,3\n")
    early, *late = convert("azure-2023", [path])
    assert early.input_tokens == 2
    assert [each.time_us - early.time_us for each in late] == [7_200_000_000] * 2


def test_mooncake_is_put_in_order(tmp_path: Path) -> None:
    found = convert("mooncake", [mooncake(tmp_path / "a.jsonl", *MOONCAKE)])
    assert found == [Arrival(0, 30, 4), Arrival(0, 40, 4), Arrival(3_000_000, 6758, 500)]


def test_the_same_arrivals_are_the_same_bytes(tmp_path: Path) -> None:
    found = convert("mooncake", [mooncake(tmp_path / "a.jsonl", *MOONCAKE)])
    for name in ("one.csv.gz", "two.csv.gz"):
        write(found, tmp_path / name)
    assert (tmp_path / "one.csv.gz").read_bytes() == (tmp_path / "two.csv.gz").read_bytes()


def test_what_is_wrong_with_azure_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    assert "a.csv:3: " in refusal("azure-2023", saved(path, AZURE.replace(",20,", ",-20,")))
    assert "'many'" in refusal("azure-2023", saved(path, AZURE.replace(",8", ",many")))
    assert "a.csv:2: " in refusal("azure-2023", saved(path, AZURE.replace("16 23", "16 25")))
    assert "a.csv:3: " in refusal("azure-2023", saved(path, AZURE.replace(",20,8", ",20")))
    assert "no column ContextTokens" in refusal("azure-2023", saved(path, "TIMESTAMP,x\n"))
    assert "no requests" in refusal("azure-2023", saved(path, AZURE.split("\r\n")[0]))
    assert "missing.csv" in refusal("azure-2023", tmp_path / "missing.csv")


def test_what_is_wrong_with_mooncake_is_said_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    good, other, _ = MOONCAKE
    assert "a.jsonl:2: no 'output_length'" in refusal(
        "mooncake", mooncake(path, good, {"timestamp": 1, "input_length": 2})
    )
    assert "a.jsonl:2: " in refusal("mooncake", mooncake(path, good, other | {"timestamp": "3"}))
    assert "a.jsonl:1: " in refusal("mooncake", mooncake(path, good | {"input_length": 1.5}))
    assert "a.jsonl:1: " in refusal("mooncake", mooncake(path, [1, 2]))
    assert "a.jsonl:2: " in refusal("mooncake", saved(path, json.dumps(good) + "\n{"))
    assert "a.jsonl:1: " in refusal("mooncake", mooncake(path, good | {"timestamp": float("inf")}))


def test_only_the_forms_that_are_read_are_written(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match=r"written as \.csv"):
        write([Arrival(0, 1, 1)], tmp_path / "trace.jsonl")


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    with pytest.raises(TraceError, match="missing"):
        write([Arrival(0, 1, 1)], tmp_path / "missing" / "trace.csv")
