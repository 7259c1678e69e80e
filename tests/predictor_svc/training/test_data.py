from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from predictor_svc.encoder import Turn
from predictor_svc.training.data import (
    DataError,
    read_examples,
    read_prompts,
    split_by_prompt,
    without_prompts,
)

GOOD: dict[str, Any] = {
    "id": "a1",
    "source": "own/chat",
    "model": "llm",
    "prompt": "Hello?",
    "response_samples": [3, 1024],
    "response_stopped": [True, False],
}


def write(path: Path, *rows: dict[str, Any] | str) -> Path:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return path


def test_several_samples_and_capped_ones_are_read(tmp_path: Path) -> None:
    (example,) = read_examples([write(tmp_path / "a.jsonl", GOOD)])
    assert example.prompt.prompt_id == "a1"
    assert example.prompt.source == "own/chat"
    assert example.model == "llm"
    assert example.lengths.tokens == (3, 1024)
    assert example.lengths.stopped == (True, False)


def test_the_other_names_of_columns_are_read(tmp_path: Path) -> None:
    row = {"prompt_id": 7, "model_name": "m", "prompt_content": "Hi", "response_length": 12}
    (example,) = read_examples([write(tmp_path / "a.jsonl", row)])
    assert (example.prompt.prompt_id, example.model) == ("7", "m")
    assert example.lengths.tokens == (12,)
    assert example.lengths.stopped == (True,)


def test_turns_are_read(tmp_path: Path) -> None:
    row = GOOD | {"turns": [{"role": "user", "content": "before"}]}
    (example,) = read_examples([write(tmp_path / "a.jsonl", row)])
    assert example.prompt.text.turns == (Turn("user", "before"),)


def test_gzipped_files_are_read(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress(json.dumps(GOOD).encode()))
    assert len(read_examples([path])) == 1


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ("{", r":2: not JSON"),
        ("[]", r":2: expected a JSON object"),
        ({**GOOD, "prompt": None}, r":2: column 'prompt': missing"),
        ({**GOOD, "prompt": ["x"]}, r":2: column 'prompt': expected text, found list"),
        ({**GOOD, "response_samples": []}, r":2: column 'response_samples': .*at least one"),
        ({**GOOD, "response_samples": [1, -2]}, r":2: column 'response_samples': .*>= 0"),
        ({**GOOD, "response_samples": [1, True]}, r":2: column 'response_samples'"),
        ({**GOOD, "response_samples": None}, r":2: column 'response_samples': missing"),
        ({**GOOD, "response_stopped": [True]}, r":2: column 'response_stopped': expected 2"),
        ({**GOOD, "turns": ["x"]}, r":2: column 'turns': expected objects"),
        ({"prompt": "x", "response_length": 1.5}, r":2: column 'response_length': .*1\.5"),
    ],
)
def test_what_is_malformed_is_named_by_file_line_and_column(
    tmp_path: Path, row: dict[str, Any] | str, message: str
) -> None:
    path = write(tmp_path / "bad.jsonl", GOOD, row)
    with pytest.raises(DataError, match=r"bad\.jsonl" + message):
        read_examples([path])


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nowhere\.jsonl: cannot be read: .*No such file"):
        read_examples([tmp_path / "nowhere.jsonl"])


def test_a_truncated_gzip_is_an_error_not_less_data(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl.gz"
    path.write_bytes(gzip.compress((json.dumps(GOOD) + "\n").encode() * 1000)[:-20])
    with pytest.raises(DataError, match=r"a\.jsonl\.gz.*cannot be read"):
        read_examples([path])


def test_a_source_and_its_family_can_be_left_out(tmp_path: Path) -> None:
    rows = [GOOD | {"source": name} for name in ("own/chat", "own/code", "owner", "other")]
    path = write(tmp_path / "a.jsonl", *rows)
    left = read_examples([path], exclude_sources=["own", "other"])
    assert [each.prompt.source for each in left] == ["owner"]


def test_prompts_are_read_once_and_not_where_clipped(tmp_path: Path) -> None:
    clipped = GOOD | {"prompt": "cut", "prompt_clipped": True}
    path = write(tmp_path / "a.jsonl", GOOD, GOOD | {"id": "again"}, clipped)
    assert [each.prompt_id for each in read_prompts([path])] == ["a1"]


def rows_of(path: Path, count: int) -> Path:
    return write(path, *[GOOD | {"id": n, "prompt": f"prompt {n // 2}"} for n in range(count)])


def test_a_split_shares_no_prompt_and_loses_no_row(tmp_path: Path) -> None:
    examples = read_examples([rows_of(tmp_path / "a.jsonl", 400)])
    split = split_by_prompt(examples, seed=3, validation_share=0.2, test_share=0.2)
    parts = [
        {each.prompt.text.prompt for each in part}
        for part in (split.train, split.validation, split.test)
    ]
    assert sum(len(part) for part in parts) == 200
    assert len(split.train) + len(split.validation) + len(split.test) == 400
    assert all(len(part) >= 20 for part in parts)


def test_a_split_is_the_same_again_and_more_data_moves_nothing(tmp_path: Path) -> None:
    examples = read_examples([rows_of(tmp_path / "a.jsonl", 400)])
    some = split_by_prompt(examples[:200], seed=3, validation_share=0.2, test_share=0.2)
    all_ = split_by_prompt(examples, seed=3, validation_share=0.2, test_share=0.2)
    assert set(some.test) <= set(all_.test)
    assert set(some.train) <= set(all_.train)


def test_held_out_prompts_are_dropped_whatever_their_case_and_spacing(tmp_path: Path) -> None:
    examples = read_examples([rows_of(tmp_path / "a.jsonl", 6)])
    held = read_prompts([write(tmp_path / "h.jsonl", {"prompt": " Prompt  1\n"})])
    left = without_prompts(examples, held)
    assert {each.prompt.text.prompt for each in left} == {"prompt 0", "prompt 2"}
