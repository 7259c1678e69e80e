from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from predictor_svc.encoder import PromptText, Turn
from predictor_svc.training.data import (
    DataError,
    Prompt,
    join_lengths,
    read_examples,
    read_prompts,
    within,
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


def test_several_samples_count_before_one(tmp_path: Path) -> None:
    row = {"prompt": "x", "response_tokens": 9, "native_samples": [4, 5], "response_length": 8}
    path = write(tmp_path / "a.jsonl", row, row | {"native_samples": None})
    assert [each.lengths.tokens for each in read_examples([path])] == [(4, 5), (9,)]


def test_whole_numbers_may_be_written_as_floats(tmp_path: Path) -> None:
    row = {"prompt": "x", "response_length": 12.0}
    (example,) = read_examples([write(tmp_path / "a.jsonl", row)])
    assert example.lengths.tokens == (12,)


def test_an_answer_that_saw_no_end_was_cut(tmp_path: Path) -> None:
    row = {"prompt": "x", "response_tokens": 400, "saw_eos": False}
    (example,) = read_examples([write(tmp_path / "a.jsonl", row)])
    assert example.lengths.stopped == (False,)


def test_rows_without_a_length_or_a_prompt_are_counted_not_errors(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.jsonl",
        GOOD,
        {"prompt": "x", "response_tokens": None},
        {"prompt": " ", "turns": None, "response_tokens": 3},
        {"prompt": "", "turns": [{"role": "user", "content": "x"}], "response_tokens": 4},
    )
    skipped: Counter[str] = Counter()
    examples = read_examples([path], skipped=skipped)
    assert [each.lengths.tokens for each in examples] == [(3, 1024), (4,)]
    assert skipped == {"no known length": 1, "no prompt": 1}


def test_conversation_and_published_split_are_read(tmp_path: Path) -> None:
    rows = [GOOD | {"conv": "c1", "split": "test"}, GOOD | {"conversation_id": 7}, GOOD]
    examples = read_examples([write(tmp_path / "a.jsonl", *rows)])
    assert [each.conversation for each in examples] == ["c1", "7", ""]
    assert [each.split for each in examples] == ["test", "", ""]


def test_the_llm_is_read_with_the_prompt_and_does_not_change_its_digest(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, GOOD | {"model": "other"})
    one, other = read_examples([path])
    assert [each.prompt.text.llm for each in (one, other)] == ["llm", "other"]
    assert one.prompt.digest == other.prompt.digest
    assert one.prompt.text.prompt is other.prompt.text.prompt  # one string for all its LLMs


def test_only_rows_with_a_true_column_can_be_asked_for(tmp_path: Path) -> None:
    rows = [GOOD | {"core": True}, GOOD | {"core": False}, GOOD]
    path = write(tmp_path / "a.jsonl", *rows)
    assert len(read_examples([path], only=["core"])) == 1


def test_examples_with_a_longer_sample_are_left_out(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", GOOD, GOOD | {"response_samples": [3, 4]})
    assert [each.lengths.tokens for each in within(read_examples([path]), 1023)] == [(3, 4)]


def test_joined_lengths_carry_their_llm(tmp_path: Path) -> None:
    prompt = Prompt("p1", "own", PromptText("Hello?"), "c1")
    row = {"prompt_sha256": prompt.digest, "model": "llm", "response_samples": [5]}
    (example,) = join_lengths([write(tmp_path / "a.jsonl", row)], [prompt])
    assert (example.prompt.prompt_id, example.prompt.text.llm) == ("p1", "llm")
    assert example.conversation == "c1"


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
        ({**GOOD, "prompt": None}, r":2: column 'prompt_content': missing \(or prompt\)"),
        ({**GOOD, "prompt": ["x"]}, r":2: column 'prompt': expected text, found list"),
        ({**GOOD, "response_samples": []}, r":2: column 'response_samples': .*at least one"),
        ({**GOOD, "response_samples": [1, -2]}, r":2: column 'response_samples': .*>= 0"),
        ({**GOOD, "response_samples": [1, True]}, r":2: column 'response_samples'"),
        ({"prompt": "x"}, r":2: column 'response_samples': missing \(or native_samples, .*\)"),
        ({**GOOD, "response_stopped": [True]}, r":2: column 'response_stopped': expected 2"),
        ({**GOOD, "response_stopped": "yes"}, r":2: column 'response_stopped': .*'yes'"),
        ({**GOOD, "turns": ["x"]}, r":2: column 'turns': expected a list of objects"),
        ({**GOOD, "turns": [{"role": "user"}]}, r":2: column 'turns': .*`content`"),
        ({**GOOD, "turns": [{"content": "\ud800"}]}, r":2: column 'turns': not Unicode"),
        ({**GOOD, "prompt": "half \ud800"}, r":2: column 'prompt': not Unicode"),
        ({**GOOD, "conv": ["c"]}, r":2: column 'conv': expected text, found list"),
        ({"prompt": "x", "response_length": 1.5}, r":2: column 'response_length': .*1\.5"),
        ({"prompt": "x", "response_length": "12"}, r":2: column 'response_length': .*'12'"),
        ('{"prompt": "x", "response_length": NaN}', r":2: column 'response_length': .*nan"),
        ("[" * 100_000, r":2: not JSON: .*recursion"),
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
