"""CASTILLO's form, in small files of our own text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from predictor_svc.training.convert import Converted
from predictor_svc.training.convert_castillo import convert, part_of
from predictor_svc.training.data import DataError, read_examples

ENTRY = {
    "sample_id": "s1",
    "prompt_id": "p1",
    "model": "meta-llama--Llama-3.1-8B-Instruct",
    "dataset": "ShareGPT",
    "prompt_text": "Name a river.",
    "longest_response": "the Danube",
    "output_sizes": "[577, 558, 664]",
}
OTHER = ENTRY | {"model": "org--another--llm", "output_sizes": [3, 4]}


def saved(path: Path, *entries: dict[str, Any]) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(entries))
    return path


def converted(path: Path, model: str = "") -> tuple[list[dict[str, Any]], Converted]:
    out = path.with_name("out.jsonl")
    done = convert([path], out, model, lambda _: None)
    return [json.loads(line) for line in out.read_text().splitlines()], done


def test_a_row_has_the_prompt_and_the_published_lengths(tmp_path: Path) -> None:
    rows, done = converted(saved(tmp_path / "test" / "preproc_ShareGPT_llm.json", ENTRY))
    assert rows == [
        {
            "prompt_id": "p1",
            "source": "castillo/ShareGPT",
            "model_name": "meta-llama/Llama-3.1-8B-Instruct",
            "split": "test",
            "prompt_content": "Name a river.",
            "response_samples": [577, 558, 664],
        }
    ]
    assert (done.conversations, done.rows) == (1, 1)


def test_lengths_may_be_a_list_and_names_have_more_dashes(tmp_path: Path) -> None:
    rows, _ = converted(saved(tmp_path / "train.json", OTHER))
    assert rows[0]["response_samples"] == [3, 4]
    assert rows[0]["model_name"] == "org/another--llm"


def test_one_llm_can_be_picked(tmp_path: Path) -> None:
    path = saved(tmp_path / "a.json", ENTRY, OTHER, ENTRY | {"prompt_text": " "})
    rows, done = converted(path, model="meta-llama/Llama-3.1-8B-Instruct")
    assert [row["model_name"] for row in rows] == ["meta-llama/Llama-3.1-8B-Instruct"]
    assert done.skipped == {"another LLM": 1, "empty prompt": 1}


def test_what_is_written_is_data_to_train_on(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl.gz"
    files = [saved(tmp_path / part / "a.json", ENTRY) for part in ("train", "validate", "test")]
    convert(files, out, "", lambda _: None)
    examples = read_examples([out])
    assert [each.split for each in examples] == ["train", "validate", "test"]
    assert examples[0].lengths.tokens == (577, 558, 664)
    assert examples[0].model == "meta-llama/Llama-3.1-8B-Instruct"


@pytest.mark.parametrize(
    ("path", "part"),
    [
        ("data/validate/preproc_Mbpp_llm.json", "validate"),
        ("data/preproc_Alpaca_test_Qwen--Qwen2.5-14B-Instruct.json", "test"),
        ("sanitized/validation.json", "validation"),
        ("all.json", ""),
    ],
)
def test_the_part_is_what_folder_or_name_says(path: str, part: str) -> None:
    assert part_of(Path(path)) == part


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"output_sizes": "[1, 2"}, "column 'output_sizes': expected a list"),
        ({"output_sizes": []}, "column 'output_sizes'"),
        ({"output_sizes": None}, "column 'output_sizes': missing"),
        ({"output_sizes": "[-1]"}, "column 'output_sizes'"),
        ({"prompt_text": 7.5}, "column 'prompt_text'"),
        ({"model": None}, "column 'model': missing"),
    ],
)
def test_a_malformed_entry_is_named_and_nothing_is_written(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    path = saved(tmp_path / "a.json", ENTRY, ENTRY | change)
    with pytest.raises(DataError) as caught:
        converted(path)
    assert f"{path}:entry 2: {problem}" in str(caught.value)
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]
