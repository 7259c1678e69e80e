import gzip
from dataclasses import replace
from pathlib import Path

import pytest

from ssjf_bench import live_records
from ssjf_bench.live_records import LiveRow, RecordsError, Run, RunHeader

HEADER = RunHeader(
    run="continuous-16-0.9-ssjf-1",
    policy="ssjf",
    options={},
    mode="continuous",
    max_batch=16,
    max_wait_ms=50.0,
    load=0.9,
    offered_requests_s=1.8,
    capacity_requests_s=2.0,
    repeat=1,
    seed=1,
    arrivals="poisson",
    prompts="castillo.jsonl.gz",
    hardware={"cores": 2},
    flags={"gateway": {"policy": "ssjf"}},
    cpu_s={"engine": 1.5},
    window_s=3.5,
    facts={"lag_p99_ms": 0.5},
    invalid=(),
)
ROW = LiveRow(
    run=HEADER.run,
    policy="ssjf",
    mode="continuous",
    max_batch=16,
    load=0.9,
    repeat=1,
    request_id="0",
    prompt_id="é-1",
    category="",
    llm="",
    seed=1,
    measured=True,
    arrival_s=1.0,
    sent_s=1.001,
    queued_s=1.01,
    started_s=1.02,
    first_token_s=1.5,
    end_s=3.5,
    prompt_tokens=20,
    predicted_tokens=5.0,
    predicted_by_model=True,
    forced_tokens=4,
    output_tokens=4,
    finish_reason="FINISH_REASON_LENGTH",
    outcome="OK",
    error="",
)
FAILED = replace(ROW, end_s=1.2, outcome="UNAVAILABLE", error="ENGINE_LOST the engine is gone")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = live_records.write(tmp_path, Run(HEADER, (ROW, FAILED)))
    found = live_records.read(path)
    assert path.name == "continuous-16-0.9-ssjf-1.jsonl.gz"
    assert (found.header.flags, list(found.header.invalid)) == (HEADER.flags, [])
    assert found.rows == (ROW, FAILED)


def test_the_same_run_has_the_same_checksum(tmp_path: Path) -> None:
    path = live_records.write(tmp_path, Run(HEADER, (ROW,)))
    first = live_records.sha256(path)
    assert live_records.sha256(live_records.write(tmp_path, Run(HEADER, (ROW,)))) == first
    assert live_records.sha256(live_records.write(tmp_path, Run(HEADER, (FAILED,)))) != first


def test_a_folder_holds_runs_and_nothing_half_written(tmp_path: Path) -> None:
    live_records.write(tmp_path, Run(HEADER, (ROW,)))
    live_records.write(tmp_path, Run(replace(HEADER, run="a"), ()))
    (tmp_path / ".b.jsonl.gz.1.partial").write_bytes(b"half")
    assert [run.header.run for run in live_records.read_folder(tmp_path)] == ["a", HEADER.run]


def test_a_cut_off_file_is_refused_by_name(tmp_path: Path) -> None:
    path = live_records.write(tmp_path, Run(HEADER, (ROW,)))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(RecordsError, match=HEADER.run):
        live_records.read(path)


def test_rows_of_another_form_are_refused(tmp_path: Path) -> None:
    path = live_records.write(tmp_path, Run(HEADER, (ROW,)))
    text = gzip.decompress(path.read_bytes()).decode().replace('"sent_s"', '"left_s"')
    path.write_bytes(gzip.compress(text.encode()))
    with pytest.raises(RecordsError, match="sent_s"):
        live_records.read(path)


def test_completion_times_count_from_the_arrival_and_only_of_what_finished() -> None:
    assert ROW.jct_s == 2.5
    assert FAILED.jct_s is None
