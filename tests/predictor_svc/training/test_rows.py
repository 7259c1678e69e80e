"""CSV as training data."""

from __future__ import annotations

import csv
import gzip
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from predictor_svc.encoder import Turn
from predictor_svc.training.data import DataError, read_examples, read_prompts

HEADER = ["model_name", "prompt_id", "prompt_content", "response_length"]


def write(path: Path, *rows: Sequence[object]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_the_columns_of_the_papers_users_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER, ["llm", 7, "Hello?", 12])
    (example,) = read_examples([path])
    assert (example.model, example.prompt.prompt_id) == ("llm", "7")
    assert (example.prompt.text.prompt, example.lengths.tokens) == ("Hello?", (12,))


@pytest.mark.parametrize(
    ("cell", "tokens"),
    [
        ("12", (12,)),
        ("12.0", (12,)),
        ("3 4  5", (3, 4, 5)),
        ("[3, 4, 5]", (3, 4, 5)),
        (" [ 3 ] ", (3,)),
    ],
)
def test_lengths_in_a_cell(tmp_path: Path, cell: str, tokens: tuple[int, ...]) -> None:
    path = write(tmp_path / "a.csv", ["prompt", "response_samples"], ["Hi", cell])
    (example,) = read_examples([path])
    assert example.lengths.tokens == tokens


def test_quoted_newlines_quotes_and_commas_are_part_of_a_prompt(tmp_path: Path) -> None:
    prompt = 'One,\n"two"\r\n\nthree'
    path = write(tmp_path / "a.csv", HEADER, ["llm", 1, prompt, 2], ["llm", 2, "next", 3])
    assert [each.prompt.text.prompt for each in read_examples([path])] == [prompt, "next"]


def test_a_prompt_longer_than_the_csv_modules_own_limit_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", HEADER, ["llm", 1, "x" * 200_000, 2])
    assert len(read_examples([path])[0].prompt.text.prompt) == 200_000


def test_a_gzipped_file_with_a_byte_order_mark_is_read(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress("\ufeffprompt,response_length\nHi,3\n".encode()))
    assert read_examples([path])[0].lengths.tokens == (3,)


def test_turns_are_a_json_list_and_truths_are_words(tmp_path: Path) -> None:
    turns = json.dumps([{"role": "user", "content": "before, you see"}])
    header = ["prompt", "turns", "response_samples", "response_stopped"]
    path = write(tmp_path / "a.csv", header, ["Hi", turns, "3 4", "[True, false]"])
    (example,) = read_examples([path])
    assert example.prompt.text.turns == (Turn("user", "before, you see"),)
    assert example.lengths.stopped == (True, False)


def test_empty_cells_are_null(tmp_path: Path) -> None:
    header = ["prompt", "response_samples", "response_length", "turns", "id"]
    path = write(tmp_path / "a.csv", header, ["Hi", "", 3, "", ""], ["", "", 3, "", ""])
    (example,) = read_examples([path])
    assert example.lengths.tokens == (3,)
    assert example.prompt.prompt_id


def test_prompts_alone_are_read(tmp_path: Path) -> None:
    path = write(tmp_path / "a.csv", ["prompt"], ["Hi"], ["Hi"], ["Ho"])
    assert [each.text.prompt for each in read_prompts([path])] == ["Hi", "Ho"]


GOOD_LINES = 'prompt,response_length\n"two\nlines",3\n'


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (GOOD_LINES + "Hi,-3\n", r":4: column 'response_length': .*-3"),
        (GOOD_LINES + "Hi,many\n", r":4: column 'response_length': cannot be read: 'many'"),
        (GOOD_LINES + "Hi,[3\n", r":4: column 'response_length': cannot be read"),
        (GOOD_LINES + "Hi,[]\n", r":4: column 'response_length': .*at least one"),
        (GOOD_LINES + "Hi,2.5\n", r":4: column 'response_length': .*2\.5"),
        (GOOD_LINES + "Hi,1e999\n", r":4: column 'response_length': .*inf"),
        (GOOD_LINES + "Hi\n", r":4: column 'response_length': missing"),
        (GOOD_LINES + "Hi,3,4\n", r":4: 3 cells, the header has 2"),
        (GOOD_LINES + '"Hi,3\n', r":4: not CSV: unexpected end of data"),
        ("prompt,turns,response_length\nHi,[{,3\n", r":2: column 'turns': expected a JSON list"),
        ("prompt\nHi\n", r":2: column 'response_samples': missing"),
        ("response_length\n3\n", r":2: column 'prompt_content': missing"),
        ("prompt,prompt\n1,2\n", r":1: column 'prompt': is there twice"),
        ("", r":1: no header"),
    ],
)
def test_what_is_malformed_is_named_by_file_line_and_column(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "bad.csv"
    path.write_text(content)
    with pytest.raises(DataError, match=r"bad\.csv" + message):
        read_examples([path])
